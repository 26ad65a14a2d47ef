package projections_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"pgregory.net/rapid"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

// Whatever handlers do, and however the events are cut into batches: a rebuild, a rebuild with catch-ups, projecting in the
// application's transactions, and in memory, leave the same rows, and the handlers see the same errors.
func TestEndsAgree(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, setupEnds)
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	e := &ends{pool: pool, db: db, bun: bun.NewDB(db, pgdialect.New())}
	var err error
	if e.set, err = projections.NewSet(endsEvents, peopleProjector, linesProjector, bookingsProjector); err != nil {
		t.Fatal(err)
	}
	e.runs = map[string]*projections.Run{
		"rebuilt":          e.set.In("rebuilt", "").Rebuild(),
		"caughtup rebuild": e.set.In("caughtup", "").Rebuild(),
		"caughtup":         e.set.In("caughtup", "").CatchUp(),
	}
	e.live = e.set.In("live", "")
	rapid.Check(t, e.check)
}

type ends struct {
	pool *pgxpool.Pool
	db   *sql.DB
	bun  *bun.DB
	set  *projections.Set
	live *projections.Set
	runs map[string]*projections.Run
}

func (e *ends) check(t *rapid.T) {
	ctx := t.Context()
	for _, schema := range []string{"rebuilt", "caughtup", "live"} {
		if _, err := e.pool.Exec(ctx, fmt.Sprintf("delete from %[1]s.people; delete from %[1]s.lines; delete from %[1]s.marks; delete from %[1]s.bookings", schema)); err != nil {
			t.Fatal(err)
		}
	}
	events := drawEvents(t)

	rebuilt := log{}
	e.batch(t, "rebuilt", byAggregate(events), rebuilt)

	caughtUp := log{}
	rest := rapid.IntRange(0, len(events)).Draw(t, "prefix")
	e.batch(t, "caughtup rebuild", byAggregate(events[:rest]), caughtUp)
	for _, group := range drawGroups(t, events[rest:]) {
		e.batch(t, "caughtup", group, caughtUp)
	}

	live := log{}
	for _, group := range drawGroups(t, events) {
		e.project(t, group, live)
	}

	remembered := log{}
	memory := e.set.Memory()
	for _, group := range drawGroups(t, events) {
		if err := memory.Project(context.WithValue(t.Context(), logKey{}, remembered), group...); err != nil {
			t.Fatal(err)
		}
	}

	want := e.rows(t, "rebuilt")
	same(t, "rows of the catch-up", want, e.rows(t, "caughtup"))
	same(t, "rows of the live tables", want, e.rows(t, "live"))
	same(t, "errors of the catch-up", fmt.Sprint(map[string][]string(rebuilt)), fmt.Sprint(map[string][]string(caughtUp)))
	same(t, "errors of the live tables", fmt.Sprint(map[string][]string(rebuilt)), fmt.Sprint(map[string][]string(live)))
	stored := e.set.In("rebuilt", "").Memory()
	if err := pgx.BeginFunc(t.Context(), e.pool, func(tx pgx.Tx) error { return stored.Load(t.Context(), projections.Pgx(tx)) }); err != nil {
		t.Fatal(err)
	}
	same(t, "rows in memory", listed(t, stored), listed(t, memory))
	same(t, "errors in memory", fmt.Sprint(map[string][]string(rebuilt)), fmt.Sprint(map[string][]string(remembered)))
}

// listed are all rows as Go has them.
func listed(t *rapid.T, m *projections.Memory) string {
	var b strings.Builder
	for _, row := range []any{person{}, line{}, mark{}, booking{}} {
		table, rows, err := m.Rows(reflect.TypeOf(row))
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(rows)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", table, text)
	}
	return b.String()
}

func same(t *rapid.T, what, want, got string) {
	if want != got {
		t.Fatalf("%s: rebuilt\n%s\nhere\n%s", what, want, got)
	}
}

func drawEvents(t *rapid.T) []projections.New {
	ops := []string{"create", "create", "many", "put", "update", "upsert", "delete", "get", "last", "update group", "delete group", "loop", "all", "none"}
	steps := rapid.Custom(func(t *rapid.T) step {
		return step{
			Op:   rapid.SampledFrom(ops).Draw(t, "op"),
			No:   rapid.Int32Range(1, 5).Draw(t, "no"),
			N:    rapid.Int64Range(-9, 9).Draw(t, "n"),
			Kind: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "kind"),
			Late: rapid.IntRange(0, 9).Draw(t, "late") == 9,
		}
	})
	ids := []uuid.UUID{{}, {15: 1}, {0: 255, 3: 7}}
	sequences := map[uuid.UUID]int64{}
	var events []projections.New
	for i := range rapid.IntRange(1, 25).Draw(t, "events") {
		id := rapid.SampledFrom(ids).Draw(t, "aggregate")
		sequences[id]++
		events = append(events, projections.New{
			Meta: projections.Meta{
				Position: int64(i + 1), AggregateID: projections.UUID(id), Sequence: sequences[id],
				Time: time.Date(2024, 2, 29, 23, 30, 0, 123_456_789+i, time.FixedZone("somewhere", -3600)),
			},
			Data: done{rapid.SliceOfN(steps, 1, 4).Draw(t, "steps")},
		})
	}
	return events
}

func drawGroups(t *rapid.T, events []projections.New) (groups [][]projections.New) {
	for len(events) > 0 {
		n := rapid.IntRange(1, len(events)).Draw(t, "group")
		groups, events = append(groups, events[:n]), events[n:]
	}
	return groups
}

func byAggregate(events []projections.New) []projections.New {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b projections.New) int {
		return strings.Compare(a.AggregateID.String(), b.AggregateID.String())
	})
	return events
}

func (e *ends) batch(t *rapid.T, run string, events []projections.New, l log) {
	ctx := context.WithValue(t.Context(), logKey{}, l)
	if err := pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		var ids []projections.ID
		for _, e := range events {
			if !slices.Contains(ids, e.AggregateID) {
				ids = append(ids, e.AggregateID)
			}
		}
		r := e.runs[run]
		if err := r.Begin(ctx, tx, ids); err != nil {
			return err
		}
		for _, e := range events {
			data, err := json.Marshal(e.Data)
			if err != nil {
				return err
			}
			if err := r.Apply(&projections.Raw{
				Position: e.Position, Sequence: e.Sequence, AggregateID: e.AggregateID, Time: e.Time, Type: []byte("Done"), Data: data,
			}); err != nil {
				return err
			}
		}
		_, err := r.Flush()
		return err
	}); err != nil {
		t.Fatalf("%s: %v", run, err)
	}
}

func (e *ends) project(t *rapid.T, events []projections.New, l log) {
	ctx := context.WithValue(t.Context(), logKey{}, l)
	var err error
	kind := rapid.SampledFrom([]string{"pgx", "bun", "sql"}).Draw(t, "transaction")
	switch kind {
	case "pgx":
		err = pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error { return e.live.Project(ctx, projections.Pgx(tx), events...) })
	case "bun":
		err = e.bun.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			return e.live.Project(ctx, projections.Bun(tx), events...)
		})
	case "sql":
		var tx *sql.Tx
		if tx, err = e.db.BeginTx(ctx, nil); err == nil {
			if err = e.live.Project(ctx, projections.SQL(tx), events...); err == nil {
				err = tx.Commit()
			} else {
				_ = tx.Rollback()
			}
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
}

// rows are all rows of a schema, without what the database numbers.
func (e *ends) rows(t *rapid.T, schema string) (text string) {
	err := e.pool.QueryRow(t.Context(), fmt.Sprintf(`
		select coalesce(string_agg(r, e'\n' order by r), '') from (
		  select 'people ' || to_jsonb(p)::text as r from %[1]s.people p
		  union all select 'lines ' || (to_jsonb(l) - 'id')::text from %[1]s.lines l
		  union all select 'marks ' || to_jsonb(m)::text from %[1]s.marks m
		  union all select 'bookings ' || to_jsonb(b)::text from %[1]s.bookings b
		) rows`, schema)).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
