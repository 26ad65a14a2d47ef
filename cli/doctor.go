package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/viewschema/projector/eventtable"
	"github.com/viewschema/projector/viewschema"
)

// examine is everything that can be found out before a migration: about the database, its server, and the event table.
func examine(ctx context.Context, s *session) error {
	findings, err := s.schema.Doctor(ctx)
	if err != nil {
		return err
	}
	report, err := eventtable.Check(ctx, s.store, s.definition.Source)
	if err != nil {
		return err
	}
	for _, f := range report.Findings {
		text := f.Text
		if f.Cost != "" {
			text += "; if it stays so: " + f.Cost
		}
		findings = append(findings, viewschema.Finding{
			About: "event table, " + f.About, Severity: viewschema.Severity(f.Severity), Text: text, Remedy: typed(f.Type, s.name),
		})
	}
	v := doctorView{Type: "doctor", Findings: findings}
	v.Fit = !slices.ContainsFunc(findings, func(f viewschema.Finding) bool { return f.Severity == viewschema.SeverityMend })
	if err := s.answer(v); err != nil || v.Fit {
		return err
	}
	return &quietError{exitPending}
}

type doctorView struct {
	Type     string               `json:"type"`
	Fit      bool                 `json:"fit"`
	Findings []viewschema.Finding `json:"findings"`
}

func (v doctorView) text(w io.Writer, _ string) {
	t := table(w)
	for _, f := range v.Findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Severity, f.About, oneLine(f.Text))
		if f.Remedy != "" {
			fmt.Fprintf(t, "\t\t→ %s\n", oneLine(f.Remedy))
		}
	}
	t.Flush()
}
