package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/viewschema/projector/viewschema"
)

// clean lists what it is going to drop, asks, and drops it.
func clean(ctx context.Context, s *session) error {
	age := s.flags.Duration("older-than")
	if age < 0 {
		return usagef("--older-than %s: not below 0", age)
	}
	tables, err := s.schema.ArchivedTables(ctx, age)
	if err != nil {
		return err
	}
	free := slices.DeleteFunc(slices.Clone(tables), func(t viewschema.ArchivedTable) bool { return len(t.Dependents) > 0 })
	if err := s.answer(archivedView{Type: "archived", Nothing: len(free) == 0, Tables: append([]viewschema.ArchivedTable{}, tables...), age: age}); err != nil {
		return err
	}
	if len(free) == 0 || s.flags.Bool("dry-run") {
		return nil
	}
	if err := s.confirm("drop these tables"); err != nil {
		return err
	}
	dropped, err := s.schema.Clean(ctx, free)
	if len(dropped) > 0 {
		v := cleanedView{Type: "cleaned", Tables: []string{}}
		for _, t := range dropped {
			v.Tables = append(v.Tables, t.Name)
			v.Bytes += t.Bytes
		}
		if told := s.answer(v); err == nil {
			err = told
		}
	}
	return err
}

type archivedView struct {
	Type    string                     `json:"type"`
	Nothing bool                       `json:"nothing"` // can be dropped
	Tables  []viewschema.ArchivedTable `json:"tables"`

	age time.Duration
}

func (v archivedView) text(w io.Writer, _ string) {
	if len(v.Tables) == 0 {
		fmt.Fprintf(w, "nothing to do: no table was archived more than %s ago\n", v.age)
		return
	}
	t := table(w)
	fmt.Fprintln(t, "table\tarchived\tsize\t")
	for _, a := range v.Tables {
		stays := ""
		if len(a.Dependents) > 0 {
			stays = "stays, for what depends on it: " + strings.Join(a.Dependents, ", ")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", a.Name, a.Archived.Format(time.DateTime), stored(a.Bytes, len(a.Partitions)), stays)
	}
	t.Flush()
}

type cleanedView struct {
	Type   string   `json:"type"`
	Tables []string `json:"tables"`
	Bytes  int64    `json:"bytes"`
}

func (v cleanedView) text(w io.Writer, _ string) {
	fmt.Fprintf(w, "dropped %s: %s\n", strings.Join(v.Tables, ", "), size(v.Bytes))
}
