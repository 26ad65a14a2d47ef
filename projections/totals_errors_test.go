package projections_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

// What a handler may not do with totals, and what does not fit.
func TestTotalsErrors(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, setupTotals)
	for name, test := range map[string]struct {
		rows     []tally
		position int64
		is       error
		want     string
	}{
		"overflow":  {rows: []tally{{Place: "a", Sum: 1 << 30}, {Place: "a", Sum: 1 << 30}}, position: 1, want: "tallies (a, 0001-01-01 00:00:00 +0000 UTC): column sum: the sum of 1073741824 and 1073741824 does not fit into field Sum, a int32"},
		"too large": {rows: []tally{{Place: "a", Sum: 40_000}}, position: 1, want: "tallies (a, 0001-01-01 00:00:00 +0000 UTC): column sum: 40000 does not fit into smallint"},
		"count":     {rows: []tally{{Place: "a", N: 1}}, position: 1, want: "tallies: column n is filled in by Add: leave field N zero"},
		"position":  {rows: []tally{{Place: "a", At: 1}}, position: 1, want: "tallies: column at is filled in by Add: leave field At zero"},
		"no event":  {rows: []tally{{Place: "a"}}, want: "tallies: column at needs the event's position, and it has none: set Meta.Position"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, err := projections.NewSet(totalsEvents, totalsProjector)
			if err != nil {
				t.Fatal(err)
			}
			err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				return set.In("live", "").Project(t.Context(), projections.Pgx(tx), projections.New{
					Meta: projections.Meta{Position: test.position, AggregateID: projections.UUID(uuid.UUID{1}), Sequence: 1}, Data: added{test.rows},
				})
			})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v\nwant %s", err, test.want)
			}
		})
	}
	stranger := &projections.Projector{Name: "stranger", Tables: []projections.Table{counts}, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, _ projections.Event[added]) error { return tallies.Add(s, tally{}) }),
	}}
	set, err := projections.NewSet(totalsEvents, stranger)
	if err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return set.In("live", "").Project(t.Context(), projections.Pgx(tx),
			projections.New{Meta: projections.Meta{Position: 1, AggregateID: projections.UUID(uuid.UUID{1})}, Data: added{}})
	})
	if !errors.Is(err, projections.ErrOwner) {
		t.Error(err)
	}
}

// A table that cannot hold totals is refused before anything is replayed.
func TestTotalsTables(t *testing.T) {
	t.Parallel()
	set, err := projections.NewSet(totalsEvents, totalsProjector)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ sql, want string }{
		"no key": {"alter table counts drop constraint counts_pkey", `table live.counts: no primary key or unique index has the columns ("place") and no others, and rows are added to by these: add it to counts.sql or counts.indexes.sql`},
		"no keys": {
			"alter table counts drop constraint counts_pkey; alter table tallies drop constraint tallies_pkey",
			`table live.tallies: no primary key or unique index has the columns ("place", "day") and no others`,
		},
		"float":     {"alter table tallies alter big type float8", "table live.tallies: column big is double precision, which has no sum of field Big of projections_test.tally, a int64"},
		"enum":      {"create type size as enum ('small', 'large'); alter table tallies alter high type size using 'small'", "column high is size, which has no max of field High"},
		"no column": {"alter table tallies drop n", "no column n, which is field N"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tx, err := pgtest.Database(t, setupTotals).Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
			if _, err := tx.Exec(t.Context(), "set local search_path = live; "+test.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Fatal(err)
			}
			err = set.In("live", "").Rebuild().Begin(t.Context(), tx, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "aborted") {
				t.Errorf("%v\nwant %s", err, test.want)
			}
		})
	}
}

func TestTotalsRefusals(t *testing.T) {
	t.Parallel()
	type (
		key struct {
			Place string `bun:",pk"`
		}
		noKey struct {
			N int64 `view:"sum"`
		}
		untagged struct {
			key
			N int64
		}
		unknown struct {
			key
			N int64 `view:"average"`
		}
		float struct {
			key
			N float64 `view:"sum"`
		}
		decimal struct {
			key
			N pgtype.Numeric `view:"sum"`
		}
		pointer struct {
			key
			N *int64 `view:"sum"`
		}
		truth struct {
			key
			Any bool `view:"max"`
		}
		zero struct {
			key
			N int64 `bun:",nullzero" view:"min"`
		}
		numbered struct {
			ID int64 `bun:",pk,autoincrement"`
			N  int64 `view:"sum"`
		}
		floatKey struct {
			At float64 `bun:",pk"`
			N  int64   `view:"sum"`
		}
		taggedKey struct {
			ID uuid.UUID `bun:",pk" view:"aggregate"`
			N  int64     `view:"sum"`
		}
		last struct {
			key
			Name string `view:"last"`
		}
		positions struct {
			key
			A int64 `view:"position"`
			B int64 `view:"position"`
		}
		small struct {
			key
			A int32 `view:"position"`
		}
	)
	for _, c := range []struct {
		name, want string
		declare    func()
	}{
		{"no key", "noKey: no primary key", func() { projections.NewTotals[noKey]() }},
		{"no tag", `column n says not how it adds up: tag it view:"sum", "count", "min", "max", "last" or "position"`, func() { projections.NewTotals[untagged]() }},
		{"unknown tag", `column n: unknown tag view:"average"`, func() { projections.NewTotals[unknown]() }},
		{"float", "column n is float64, and a sum has to be exact: make it an integer, of the smallest unit", func() { projections.NewTotals[float]() }},
		{"decimal", "column n is pgtype.Numeric, and a sum has to be exact", func() { projections.NewTotals[decimal]() }},
		{"pointer", "column n is *int64, and a sum has to be exact", func() { projections.NewTotals[pointer]() }},
		{"bool", "column any is bool: a max is an integer, a string, a time.Time, or a pointer to one of these", func() { projections.NewTotals[truth]() }},
		{"nullzero", "column n is tagged nullzero, and zero is a min like others", func() { projections.NewTotals[zero]() }},
		{"numbered", "the database numbers column id", func() { projections.NewTotals[numbered]() }},
		{"float in the key", "column at is float64: the keys of totals are made of integers, strings", func() { projections.NewTotals[floatKey]() }},
		{"tag in the key", `column id is in the primary key and tagged view:"aggregate"`, func() { projections.NewTotals[taggedKey]() }},
		{"last without position", `column name is tagged view:"last", and no column says of what position: add an int64 tagged view:"position"`, func() { projections.NewTotals[last]() }},
		{"two positions", `columns a and b are both tagged view:"position"`, func() { projections.NewTotals[positions]() }},
		{"small position", "column a is int32: a position is an int64", func() { projections.NewTotals[small]() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := mustPanic(t, c.declare); !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
