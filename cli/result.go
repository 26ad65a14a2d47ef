package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

type initView struct {
	Type    string   `json:"type"`
	Nothing bool     `json:"nothing"`
	Applied []string `json:"applied"` // files
}

func newInitView(applied []string) initView {
	return initView{Type: "init", Nothing: len(applied) == 0, Applied: append([]string{}, applied...)}
}

func (v initView) text(w io.Writer, _ string) {
	if v.Nothing {
		fmt.Fprintln(w, "nothing to do: the bookkeeping tables are up to date")
		return
	}
	fmt.Fprintf(w, "the bookkeeping tables are up to date; applied %s\n", strings.Join(v.Applied, ", "))
}

type pendingInitView struct {
	Type    string   `json:"type"`
	Nothing bool     `json:"nothing"`
	Pending []string `json:"pending"` // files
}

func newPendingInitView(pending []string) pendingInitView {
	return pendingInitView{Type: "init", Nothing: len(pending) == 0, Pending: append([]string{}, pending...)}
}

func (v pendingInitView) text(w io.Writer, program string) {
	if v.Nothing {
		fmt.Fprintln(w, "the bookkeeping tables are up to date")
		return
	}
	fmt.Fprintf(w, "pending: %s\n", strings.Join(v.Pending, ", "))
	next(w, program, "init")
}

type versionView struct {
	Type    string `json:"type"`
	Current int    `json:"current"`
	Target  int    `json:"target"`
	Pending bool   `json:"pending"`
}

func newVersionView(current, target int) versionView {
	return versionView{Type: "version", Current: current, Target: target, Pending: current < target}
}

func (v versionView) text(w io.Writer, _ string) {
	fmt.Fprintf(w, "current  %d\ntarget   %d\n", v.Current, v.Target)
}

// resultView is a viewschema.Result for programs.
type resultView struct {
	Type       string       `json:"type"`
	Command    string       `json:"command"`
	From       int          `json:"from"`
	To         int          `json:"to"`
	State      replay.State `json:"state,omitempty"`
	Nothing    bool         `json:"nothing"`
	Projectors []string     `json:"projectors,omitempty"`
	Resumed    bool         `json:"resumed"`
	Events     int64        `json:"events"`
	Rows       int64        `json:"rows"`
	Cut        int64        `json:"cut"`
	Parked     int          `json:"parked"` // aggregates that are left out
	Reason     string       `json:"cut_reason,omitempty"`
	Waiting    string       `json:"waiting,omitempty"`
	HeldOff    float64      `json:"held_off_seconds"`
	Elapsed    float64      `json:"elapsed_seconds"`
	Times      *timesView   `json:"times_seconds,omitempty"`

	Remaining []viewschema.Remaining `json:"remaining,omitempty"`

	result    viewschema.Result
	following bool // it goes on by itself
}

// timesView is a replay.Times for programs.
type timesView struct {
	Read   float64 `json:"read"`
	Decode float64 `json:"decode"`
	Apply  float64 `json:"apply"`
	Write  float64 `json:"write"`
	Index  float64 `json:"index"`
	Wait   float64 `json:"wait"`
}

func newTimesView(t replay.Times) *timesView {
	if t == (replay.Times{}) {
		return nil
	}
	return &timesView{seconds(t.Read), seconds(t.Decode), seconds(t.Apply), seconds(t.Write), seconds(t.Index), seconds(t.Wait)}
}

func newResultView(command string, r viewschema.Result) resultView {
	return resultView{
		Type: "result", Command: command, From: r.From, To: r.To, State: r.State, Nothing: r.Nothing, Projectors: r.Projectors, Resumed: r.Resumed,
		Events: r.Events, Rows: r.Rows, Cut: r.Cut, Parked: r.Parked, Reason: r.CutReason, Waiting: r.Waiting,
		HeldOff: seconds(r.HeldOff), Elapsed: seconds(r.Elapsed), Times: newTimesView(r.Times), Remaining: r.Remaining, result: r,
	}
}

func (v resultView) text(w io.Writer, program string) {
	r := v.result
	switch {
	case v.Command == "migrate abort" && r.Nothing:
		fmt.Fprintln(w, "nothing to do: no migration is under way")
	case v.Command == "migrate abort" && r.To < r.From:
		fmt.Fprintf(w, "the rollback to version %d is given up; the database stays at version %d\n", r.To, r.From)
	case v.Command == "migrate abort":
		fmt.Fprintf(w, "the migration to version %d is aborted; the database stays at version %d\n", r.To, r.From)
	case v.Command == "replay" && r.Nothing:
		fmt.Fprintln(w, "nothing to do: no projector has changed")
	case r.Nothing && r.State == replay.Active && v.Command != "follow":
		fmt.Fprintf(w, "nothing to do: the database is at version %d\n", r.To)
	case v.Command == "migrate online" && r.Nothing:
		fmt.Fprintf(w, "nothing to do: version %d is built already\n", r.To)
		v.parked(w)
		next(w, program, v.afterBuilt())
	case v.Command == "migrate online":
		v.built(w)
		v.parked(w)
		next(w, program, v.afterBuilt())
	case v.Command == "migrate catchup":
		v.caughtUp(w)
		if !v.following {
			v.parked(w)
			next(w, program, v.afterBuilt())
		}
	case v.Command == "follow":
		fmt.Fprintf(w, "version %d is live\n", r.To)
	case v.Command == "migrate offline", v.Command == "rollback":
		fmt.Fprintf(w, "the database is at version %d; writers were held off for %s\n", r.To, duration(r.HeldOff))
		switch {
		case r.Events == 1:
			fmt.Fprintln(w, "applied the last event")
		case r.Events > 1:
			fmt.Fprintf(w, "applied the last %s\n", events(r.Events))
		}
		v.parked(w)
	case v.Command == "tables create":
		fmt.Fprintf(w, "created the view tables; the database is at version %d\n", r.To)
	case len(r.Projectors) > 0:
		fmt.Fprintf(w, "made anew by %s: %s, %s, in %s\n", strings.Join(r.Projectors, ", "), events(r.Events), rows(r.Rows), duration(r.Elapsed))
	default:
		fmt.Fprintf(w, "replayed %s, %s, in %s\n", events(r.Events), rows(r.Rows), duration(r.Elapsed))
	}
	for _, left := range r.Remaining {
		fmt.Fprintf(w, "\nleft to do: %s\n  %s\n  type: %s\n", left.What, strings.ReplaceAll(left.Error, "\n", "\n  "), left.Statement)
	}
}

// parked says that something is left out.
func (v resultView) parked(w io.Writer) {
	if n := v.result.Parked; n > 0 {
		fmt.Fprintf(w, "parked, and left out: %s\n", aggregates(n))
	}
}

// afterBuilt is the command that comes after a rebuild or a catch-up.
func (v resultView) afterBuilt() string {
	if v.result.Parked > 0 {
		return "events parked"
	}
	return "migrate offline"
}

func (v resultView) built(w io.Writer) {
	r := v.result
	if r.Events == 0 && r.Rows == 0 { // the store is empty, or the version only alters and drops tables
		fmt.Fprintf(w, "version %d is built: there was nothing to replay\n", r.To)
	} else {
		fmt.Fprintf(w, "version %d is built: %s, %s, in %s\n", r.To, events(r.Events), rows(r.Rows), duration(r.Elapsed))
	}
	if r.CutReason != "" {
		fmt.Fprintf(w, "the ledger has every event: %s\n", oneLine(r.CutReason))
	}
}

func (v resultView) caughtUp(w io.Writer) {
	r := v.result
	if r.Nothing {
		fmt.Fprintf(w, "nothing to do: version %d has all events\n", r.To)
	} else {
		fmt.Fprintf(w, "version %d has caught up: %s, %s, in %s\n", r.To, events(r.Events), rows(r.Rows), duration(r.Elapsed))
	}
	if r.Waiting != "" {
		fmt.Fprintf(w, "the cut did not move; open transactions may still bring events: %s\n", oneLine(r.Waiting))
	}
}

// next says what to type after this.
func next(w io.Writer, program, command string) {
	fmt.Fprintf(w, "next: %s %s\n", program, command)
}
