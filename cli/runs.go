package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"time"

	"github.com/viewschema/projector/viewschema"
)

// runner says who runs this command.
func (p *program) runner() viewschema.Runner {
	r := viewschema.Runner{Program: p.name + " " + p.buildVersion(), PID: os.Getpid()}
	r.Host, _ = os.Hostname() // what is not known is left out of the record
	if u, err := user.Current(); err == nil {
		r.User = u.Username
	}
	return r
}

// listRuns shows the records of the last commands.
func listRuns(ctx context.Context, s *session) error {
	most := s.flags.Int("limit")
	if most < 1 {
		return usagef("--limit %d: at least 1", most)
	}
	runs, err := s.schema.Runs(ctx, most)
	if err != nil {
		return err
	}
	v := runsView{Type: "runs", Runs: []runView{}}
	for _, r := range runs {
		v.Runs = append(v.Runs, runView{r, seconds(r.HeldOff)})
	}
	return s.answer(v)
}

type runsView struct {
	Type string    `json:"type"`
	Runs []runView `json:"runs"`
}

type runView struct {
	viewschema.Run
	HeldOffSeconds float64 `json:"held_off_seconds"`
}

func (v runsView) text(w io.Writer, _ string) {
	if len(v.Runs) == 0 {
		fmt.Fprintln(w, "no command has changed anything yet")
		return
	}
	t := table(w)
	fmt.Fprintln(t, "started\tcommand\tversion\tby\ttook\toutcome\tevents\twriters held off")
	for _, r := range v.Runs {
		took := duration(cmp.Or(r.Ended, &r.Seen).Sub(r.Started))
		heldOff := ""
		if r.HeldOff > 0 {
			heldOff = duration(r.HeldOff)
		}
		fmt.Fprintf(t, "%s\t%s\t%d → %d\t%s@%s, %s\t%s\t%s\t%s\t%s\n", r.Started.Format(time.DateTime), r.Command, r.From, r.To,
			cmp.Or(r.User, "?"), cmp.Or(r.Host, "?"), r.Program, took, r.Outcome, number(r.Events), heldOff)
	}
	t.Flush()
	for _, r := range v.Runs {
		if r.Error != "" {
			fmt.Fprintf(w, "\n%s %s %s: %s\n", r.Started.Format(time.DateTime), r.Command, r.Outcome, r.Error)
		}
		if r.Holding != "" && r.Outcome == viewschema.OutcomeWorking {
			fmt.Fprintf(w, "\n%s holds back: %s\n", r.Command, r.Holding)
		}
	}
}
