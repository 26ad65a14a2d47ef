package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/eventtable"
)

// events are the commands on the event table.
func (p *program) events() []*urfave.Command {
	return append([]*urfave.Command{
		{
			Name:   "check",
			Usage:  "tell whether the event table is fit, and what it costs to leave it so; exits with 3 if it should be mended",
			Action: p.action(checkEvents),
		},
		{
			Name:  "prepare",
			Usage: "make the event table fit while the application writes; shows the steps first, and skips those that are done",
			Flags: []urfave.Flag{
				&urfave.BoolFlag{DisableDefaultText: true, Name: "dry-run", Usage: "show the steps and the SQL, and do nothing"},
				yesFlag(),
				&urfave.BoolFlag{DisableDefaultText: true, Name: "keep-type", Usage: "Axon 2: keep the type in the key, for identifiers under several types"},
				&urfave.IntFlag{Name: "batch-size", Value: 1_000, Usage: "how many rows get a position in one transaction"},
				&urfave.DurationFlag{Name: "pause", Usage: "between two batches"},
				&urfave.DurationFlag{Name: "lock-timeout", Value: 100 * time.Millisecond, Usage: "how long a try to get a lock may hold off readers and writers"},
				&urfave.DurationFlag{Name: "lock-wait", Value: time.Minute, Usage: "how long to try to get such a lock"},
				&urfave.DurationFlag{Name: "pause-budget", Value: 500 * time.Millisecond, Usage: "how long a statement may take that holds such a lock"},
			},
			Action: p.action(prepareEvents),
		},
	}, p.parked()...)
}

func checkEvents(ctx context.Context, s *session) error {
	r, err := eventtable.Check(ctx, s.store, s.definition.Source)
	if err != nil {
		return err
	}
	if err := s.answer(checkView{Type: "check", Fit: r.Fit(), Report: *r}); err != nil || r.Fit() {
		return err
	}
	return &quietError{exitPending}
}

func prepareEvents(ctx context.Context, s *session) error {
	if n := s.flags.Int("batch-size"); n < 1 {
		return usagef("--batch-size %d: at least 1", n)
	}
	if d := s.flags.Duration("pause"); d < 0 {
		return usagef("--pause %s: not below 0", d)
	}
	began := time.Now()
	p, err := eventtable.Plan(ctx, s.store, s.definition.Source, eventtable.Options{
		BatchSize:   s.flags.Int("batch-size"),
		Pause:       s.flags.Duration("pause"),
		KeepType:    s.flags.Bool("keep-type"),
		LockTimeout: s.flags.Duration("lock-timeout"),
		LockWait:    s.flags.Duration("lock-wait"),
		PauseBudget: s.flags.Duration("pause-budget"),
		Log:         s.log,
		Begin:       func(step eventtable.Step) { s.log.Info().Str("step", step.Name).Msg("begun") },
		End:         func(step eventtable.Step) { s.log.Info().Str("step", step.Name).Msg("done") },
		Progress:    s.filling(),
	})
	if err != nil {
		return err
	}
	if err := s.answer(stepsView{Type: "steps", Nothing: p.Nothing(), Preparation: *p}); err != nil {
		return err
	}
	if err := p.Err(); err != nil || p.Nothing() || s.flags.Bool("dry-run") {
		return err
	}
	if err := s.confirm("take these steps"); err != nil {
		return err
	}
	taken, err := p.Run(ctx, s.store)
	if err != nil {
		return err
	}
	elapsed := time.Since(began)
	return s.answer(preparedView{Type: "prepared", Relation: p.Relation, Steps: taken, Elapsed: seconds(elapsed), elapsed: elapsed})
}

// filling shows how far the filling is.
func (s *session) filling() func(eventtable.Progress) {
	if s.flags.Bool("no-progress") {
		return nil
	}
	every := logEvery
	if s.json {
		every = jsonEvery
	}
	last := time.Now()
	return func(p eventtable.Progress) {
		if time.Since(last) < every {
			return
		}
		last = time.Now()
		v := newFillingView(p)
		if s.json {
			_ = s.answer(v) // if this fails, so will the result, on the same stream
			return
		}
		s.log.Info().Msg(v.line())
	}
}

// fillingView is an eventtable.Progress for programs.
type fillingView struct {
	Type     string  `json:"type"`
	Phase    string  `json:"phase"`
	Rows     int64   `json:"rows"` // about
	RowsDone int64   `json:"rows_done"`
	Rate     float64 `json:"rows_per_second"`
	Elapsed  float64 `json:"elapsed_seconds"`
}

func newFillingView(p eventtable.Progress) fillingView {
	v := fillingView{Type: "progress", Phase: "fill", Rows: p.Rows, RowsDone: p.Numbered, Elapsed: seconds(p.Elapsed)}
	if p.Elapsed > 0 {
		v.Rate = float64(int64(float64(p.Filled) / p.Elapsed.Seconds()))
	}
	return v
}

func (v fillingView) line() string {
	text := fmt.Sprintf("fill  %s of about %s rows  %s/s", number(v.RowsDone), number(v.Rows), number(int64(v.Rate)))
	if v.Rate > 0 {
		text += "  eta " + (time.Duration(float64(v.Rows-v.RowsDone)/v.Rate) * time.Second).String()
	}
	return text
}

func (v fillingView) text(w io.Writer, _ string) { fmt.Fprintln(w, v.line()) }

type checkView struct {
	Type string `json:"type"`
	Fit  bool   `json:"fit"`
	eventtable.Report
}

func (v checkView) text(w io.Writer, program string) {
	fmt.Fprintf(w, "%s\n\n", v.Relation)
	t := table(w)
	for _, f := range v.Findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Severity, f.About, f.Text)
		if f.Cost != "" {
			fmt.Fprintf(t, "\t\tif it stays so: %s\n", f.Cost)
		}
		if f.Type != "" {
			fmt.Fprintf(t, "\t\ttype: %s\n", typed(f.Type, program))
		}
	}
	t.Flush()
}

// typed is what a finding says to type, with the program's name before our command.
func typed(text, program string) string {
	return strings.ReplaceAll(text, "events prepare", program+" events prepare")
}

type stepsView struct {
	Type    string `json:"type"`
	Nothing bool   `json:"nothing"`
	eventtable.Preparation
}

func (v stepsView) text(w io.Writer, _ string) {
	if v.Nothing && len(v.Refused) == 0 {
		fmt.Fprintf(w, "nothing to do: %s is prepared, as far as events prepare can\n", v.Relation)
		section(w, "to know", v.Notes)
		return
	}
	fmt.Fprintln(w, v.Relation)
	var done []string
	for i, step := range v.Steps {
		if step.Done {
			done = append(done, step.Name)
			continue
		}
		fmt.Fprintf(w, "\n%d. %s: %s\n   %s\n", i+1, step.Name, step.Does, step.Lock)
		for _, sql := range step.SQL {
			if !strings.HasPrefix(sql, "--") {
				sql += ";"
			}
			fmt.Fprintf(w, "     %s\n", strings.ReplaceAll(sql, "\n", "\n     "))
		}
	}
	section(w, "done already", slices.Compact(done))
	section(w, "to know before", v.Notes)
	section(w, "in the way", v.Refused)
}

type preparedView struct {
	Type     string   `json:"type"`
	Relation string   `json:"relation"`
	Steps    []string `json:"steps"`
	Elapsed  float64  `json:"elapsed_seconds"`

	elapsed time.Duration
}

func (v preparedView) text(w io.Writer, _ string) {
	fmt.Fprintf(w, "\n%s is prepared: %s, in %s\n", v.Relation, strings.Join(v.Steps, ", "), duration(v.elapsed))
}
