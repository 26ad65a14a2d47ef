package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/viewschema"
)

// verify is the command that compares tables before a cutover, and that tries the projectors.
func (p *program) verify() *urfave.Command {
	return &urfave.Command{
		Name: "verify",
		Usage: "compare the tables that were built with the live ones, at the same events, while the application runs; exits with 3 if they differ. " +
			"Until it ends, vacuum keeps what dies, and catch-ups, cutover and abort wait",
		Flags: []urfave.Flag{
			expectFlag(),
			&urfave.BoolFlag{
				DisableDefaultText: true, Name: "determinism",
				Usage: "instead, replay a sample of aggregates twice, in other batches and another order, and compare the rows: finds projectors that use the clock, " +
					"random values, the database, or the order between aggregates. Works in one transaction that is rolled back: until it ends, vacuum keeps what dies, " +
					"and tables that the SQL files refer to by foreign keys are not written to",
			},
			&urfave.IntFlag{Name: "sample", Value: 300, Usage: "with --determinism: how many aggregates, which have at most 100,000 events"},
		},
		Action: p.action(verify),
	}
}

func expectFlag() urfave.Flag {
	return &urfave.StringSliceFlag{Name: "expect", Usage: "a difference that is meant: table.column, or table for all of it; may be repeated, or a list with commas"}
}

func verify(ctx context.Context, s *session) error {
	determinism := s.flags.Bool("determinism")
	switch {
	case determinism && s.typed("expect"):
		return usagef("--expect is about tables that were built; leave it out with --determinism")
	case determinism:
		return verifyDeterminism(ctx, s)
	case s.typed("sample"):
		return usagef("--sample goes with --determinism")
	}
	return compare(ctx, s, false)
}

// offline is the cutover, and with --verify the comparison before it.
func offline(ctx context.Context, s *session) error {
	gate := s.flags.Bool("verify")
	if !gate && s.typed("expect") {
		return usagef("--expect goes with --verify")
	}
	if gate {
		current, err := s.schema.CurrentVersion(ctx)
		if err != nil {
			return err
		}
		if current < s.schema.Target() { // or else the cutover says how it is
			if err := compare(ctx, s, true); err != nil {
				return err
			}
		}
	}
	return cutover((*viewschema.Schema).MigrateOffline)(ctx, s)
}

// compare compares built tables with live ones, alone or as the gate of a cutover.
func compare(ctx context.Context, s *session, gate bool) error {
	v, err := s.schema.Verify(ctx)
	if err != nil {
		return err
	}
	view := verificationView{Type: "verification", Same: v.Same(), Elapsed: seconds(v.Elapsed), Verification: *v, gate: gate}
	if err := s.answer(view); err != nil || v.Same() {
		return err
	}
	return &quietError{exitPending}
}

// typed says whether a flag was typed, and is not set by a variable alone.
func (s *session) typed(flag string) bool {
	return s.flags.IsSet(flag) && !slices.Contains(s.unsaid, flag)
}

func verifyDeterminism(ctx context.Context, s *session) error {
	if n := s.flags.Int("sample"); n < 1 {
		return usagef("--sample %d: at least 1", n)
	}
	d, err := s.schema.VerifyDeterminism(ctx, s.flags.Int("sample"))
	if err != nil {
		return err
	}
	if err := s.answer(determinismView{Type: "determinism", Same: d.Same(), Elapsed: seconds(d.Elapsed), Determinism: *d}); err != nil || d.Same() {
		return err
	}
	return &quietError{exitPending}
}

type determinismView struct {
	Type    string  `json:"type"`
	Same    bool    `json:"same"`
	Elapsed float64 `json:"elapsed_seconds"`
	viewschema.Determinism
}

func (v determinismView) text(w io.Writer, _ string) {
	if v.Events == 0 {
		fmt.Fprintln(w, "nothing to compare: the store has no events")
		return
	}
	fmt.Fprintf(w, "replayed %s with %s twice, in %s\n\n", aggregates(v.Aggregates), events(int64(v.Events)), duration(v.Determinism.Elapsed))
	t := table(w)
	fmt.Fprintln(t, "table\tprojector\trows\tdiffer")
	for _, c := range v.Tables {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Table, c.Projector, number(c.Rows), number(c.Differ))
	}
	t.Flush()
	section(w, "not tried, since they may rely on more than the events of their aggregate", v.Skipped)
	for _, c := range v.Tables {
		if c.Differ == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s differs", c.Table)
		if len(c.Columns) > 0 {
			fmt.Fprintf(w, " in %s", strings.Join(c.Columns, ", "))
		}
		fmt.Fprintln(w)
		for _, hint := range c.Hints {
			fmt.Fprintf(w, "  %s\n", hint)
		}
		for _, e := range c.Examples {
			fmt.Fprintf(w, "  for example %s\n          and %s\n", shown(e.Rebuilt), shown(e.CaughtUp, e.Columns...))
		}
	}
}

// shown is a row, or its columns of these names.
func shown(row json.RawMessage, columns ...string) string {
	const most = 300
	text := string(row)
	if row == nil {
		return "no such row"
	}
	var values map[string]json.RawMessage
	if len(columns) > 0 && json.Unmarshal(row, &values) == nil {
		parts := make([]string, len(columns))
		for i, c := range columns {
			parts[i] = fmt.Sprintf("%s %s", c, values[c])
		}
		text = strings.Join(parts, ", ")
	}
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
