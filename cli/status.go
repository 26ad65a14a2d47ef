package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

type statusView struct {
	Type string `json:"type"`
	viewschema.Status
}

func newStatusView(st viewschema.Status) statusView {
	return statusView{Type: "status", Status: st}
}

func (v statusView) text(w io.Writer, program string) {
	t := table(w)
	fmt.Fprintf(t, "schema\t%s\n", v.Schema)
	fmt.Fprintf(t, "version\t%d, target %d", v.Current, v.Target)
	if v.Current > v.Target {
		fmt.Fprint(t, "; this binary is older than the database")
	}
	fmt.Fprintln(t)
	if v.Migration != nil {
		migration(t, v.Migration)
	} else {
		fmt.Fprintln(t, "migration\tnone")
	}
	for _, r := range v.AtWork {
		more := ""
		switch {
		case r.Holding != "":
			more = "; it holds back: " + r.Holding
		case v.waits(r):
			more = "; it waits for a batch"
		}
		fmt.Fprintf(t, "at work\t%s, %s on %s, pid %d, since %s%s\n", r.Command, r.Program, r.Host, r.PID, r.Started.Format(time.TimeOnly), more)
	}
	standby(t, v.Standby)
	parkedRows(t, v.Parked)
	t.Flush()
	if len(v.Tables) > 0 {
		fmt.Fprintln(w)
		fmt.Fprintln(t, "table\tnow\tsize")
		for _, r := range v.Tables {
			fmt.Fprintf(t, "%s\t%s\t%s\n", r.Table, r.Role, stored(r.Bytes, r.Partitions))
		}
		t.Flush()
	}
	v.next(w, program)
}

// waits says whether a run that builds has nothing in its hands: others have all that there is to do now.
func (v statusView) waits(r viewschema.RunStatus) bool {
	m := v.Migration
	return m != nil && m.State == replay.Building && r.Command == "migrate online" &&
		!slices.ContainsFunc(m.Workers, func(w viewschema.Worker) bool { return w.Run == r.ID })
}

func migration(t io.Writer, m *viewschema.MigrationStatus) {
	kind := "migration"
	if m.Rollback {
		kind = "rollback"
	}
	fmt.Fprintf(t, "%s\t%d → %d, %s, since %s\n", kind, m.From, m.To, m.State, m.Created.Format(time.DateTime))
	fmt.Fprintf(t, "phase\t%s\n", m.Phase)
	if m.Batches > 0 {
		fmt.Fprintf(t, "batches\t%s of %s\n", number(int64(m.BatchesDone)), number(int64(m.Batches)))
	}
	if m.State == replay.Built {
		fmt.Fprintf(t, "events\t%s\n", number(m.EventsDone))
	} else {
		fmt.Fprintf(t, "events\t%s of about %s\n", number(m.EventsDone), number(m.Events))
	}
	fmt.Fprintf(t, "rows\t%s\n", number(m.Rows))
	if m.Left != nil {
		left := time.Duration(*m.Left * float64(time.Second))
		fmt.Fprintf(t, "rate\t%s/s, about %s left\n", events(int64(m.PerSecond)), duration(left))
	}
	fmt.Fprintf(t, "cut\t%s\n", number(m.Cut))
	if m.Lane != nil {
		fmt.Fprintf(t, "lane\tat %s, %s and %s\n", number(m.Lane.Position), events(m.Lane.Events), rows(m.Lane.Rows))
	}
	if m.CutReason != "" {
		fmt.Fprintf(t, "\tbegan at 0: %s\n", oneLine(m.CutReason))
	}
	fmt.Fprintf(t, "ledger\t%s above the cut\n", events(m.Ledger))
	if m.State == replay.Built {
		fmt.Fprintf(t, "tail\t%s to catch up with\n", events(m.Tail))
	}
	if l := limits(m.Throttle); len(l) > 0 {
		fmt.Fprintf(t, "throttle\t%s\n", strings.Join(l, "; "))
	}
	for _, worker := range m.Workers {
		fmt.Fprintf(t, "worker\t%s\n", oneLine(worker.String()))
	}
	if m.Changed != "" {
		fmt.Fprintf(t, "changed\t%s\n", oneLine(m.Changed))
	}
}

// next says how to go on from here.
func (v statusView) next(w io.Writer, program string) {
	var command string
	switch m := v.Migration; {
	case m == nil && v.RolledBack:
		command = "rollback"
	case m == nil && v.Current < v.Target:
		command = "migrate online"
	case m == nil:
		return
	case m.State == replay.Aborting || m.Changed != "":
		command = "migrate abort"
	case m.To != v.Target:
		return
	case m.State == replay.Building && len(v.AtWork) > 0:
		return
	case m.State == replay.Building:
		command = "migrate online"
	case m.Rollback:
		command = "rollback"
	case slices.ContainsFunc(v.Parked, func(p viewschema.Parked) bool { return p.State == replay.Built }):
		command = "events parked"
	default:
		command = "migrate offline"
	}
	fmt.Fprintln(w)
	next(w, program, command)
}
