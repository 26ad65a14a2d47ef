package replay_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// line is a row to which events of all aggregates add: the positions that it has seen, in their order.
type line struct {
	bun.BaseModel `bun:"table:lines"`
	ID            int64  `bun:"id,pk"`
	Last          int64  `bun:"last"`
	Seen          string `bun:"seen"`
}

func (l *line) add(position int64) {
	l.Last = position
	l.Seen += fmt.Sprintf(" %d", position)
}

// lineOf is the line of an amount; each event has another amount.
func lineOf(amount int64) int64 { return amount % 3 }

const linesSQL = "create table lines%SUFFIX% (id bigint primary key, last bigint not null, seen text not null)"

var lines = projections.NewRows(func(l *line) int64 { return l.ID })

var linesProjector = &projections.Projector{
	Name: "lines", Order: projections.ByPosition, Tables: []projections.Table{lines},
	Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[added]) error {
		if h, ok := s.Context().Value(hookKey{}).(hook); ok {
			h(nil, handling)
		}
		id := lineOf(e.Data.Amount)
		return lines.Upsert(s, id, func(l *line, _ bool) {
			l.ID = id
			l.add(e.Position)
		})
	})},
}

func (in tables) hasLane() bool { return in == inLane || in == beside }

// checkLane holds the lane's position and table against the events. before are those that were committed before the step.
func (m *migration) checkLane(ctx context.Context, events, before []stored, cut int64) error {
	var position int64
	if err := m.world.admin.QueryRow(ctx, "select position from projector_lanes").Scan(&position); err != nil {
		return err
	}
	if position < cut {
		return fmt.Errorf("the lane is at %d, behind the cut %d", position, cut)
	}
	if m.phase == phaseCutover {
		before = events
	} else {
		for _, wr := range m.world.writers {
			for _, open := range slices.Concat(wr.pending, wr.drawn) {
				if open <= position {
					return fmt.Errorf("an open writer has position %d and the lane is at %d", open, position)
				}
			}
		}
	}
	suffix := "_1"
	if m.phase == phaseCutover {
		suffix = m.suffix
		for _, e := range before {
			if e.Position > position {
				return fmt.Errorf("the lane is at %d and lacks %v", position, e)
			}
		}
	}
	events = slices.SortedFunc(slices.Values(events), func(a, b stored) int { return int(a.Position - b.Position) })
	want := map[int64]line{}
	for _, e := range events {
		if e.Type == "Added" && e.Position <= position {
			l := want[lineOf(e.Amount)]
			l.ID = lineOf(e.Amount)
			l.add(e.Position)
			want[l.ID] = l
		}
	}
	rows, _ := m.world.admin.Query(ctx, "select id, last, seen from lines"+suffix)
	got := map[int64]line{}
	var l line
	if _, err := pgx.ForEachRow(rows, []any{&l.ID, &l.Last, &l.Seen}, func() error { got[l.ID] = l; return nil }); err != nil {
		return err
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("the lane is at %d, events %v:\ngot  %v\nwant %v", position, events, got, want)
	}
	return nil
}

// Whatever writers do and whoever else works on the migration: the lane's table is a fold of the events up to its position in
// their order, and nothing comes later at or below it. Seen to fail with a lane that in a catch-up reads what is committed,
// whether it is settled or not, with one that reads before it locks its row, and with a position that is committed by itself.
func TestInterleavingsInOrder(t *testing.T) {
	t.Parallel()
	interleaveIn(t, setting{inLane, plain}, setting{inLane, ordered}, setting{beside, partitioned}, setting{beside, elsewhere})
}
