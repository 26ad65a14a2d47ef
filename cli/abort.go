package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/viewschema/projector/viewschema"
)

// abort lists what it is going to drop, asks, and drops it.
func abort(ctx context.Context, s *session) error {
	tables, err := s.schema.AbortDrops(ctx)
	if err != nil {
		return err
	}
	if len(tables) > 0 {
		if err := s.answer(dropsView{Type: "drops", Tables: tables}); err != nil {
			return err
		}
		if err := s.confirm("drop what was built"); err != nil {
			return err
		}
	}
	return step((*viewschema.Schema).Abort)(ctx, s)
}

type dropsView struct {
	Type   string                   `json:"type"`
	Tables []viewschema.TableStatus `json:"tables"`
}

func (v dropsView) text(w io.Writer, _ string) {
	fmt.Fprintln(w, "these tables were built, are not live, and are dropped:")
	t := table(w)
	for _, b := range v.Tables {
		fmt.Fprintf(t, "  %s\t%s\n", b.Table, stored(b.Bytes, b.Partitions))
	}
	t.Flush()
}
