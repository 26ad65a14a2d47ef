package projections_test

import (
	"context"
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
	"github.com/uptrace/bun"
	"pgregory.net/rapid"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

// tally has a column for every rule and, where it matters, type.
type tally struct {
	bun.BaseModel `bun:"table:tallies"`
	Place         string     `bun:"place,pk"`
	Day           time.Time  `bun:"day,pk,type:date"`
	Sum           int32      `bun:"sum" view:"sum"`
	Big           int64      `bun:"big" view:"sum"`
	N             uint16     `bun:"n" view:"count"`
	Low           *int64     `bun:"low" view:"min"`
	High          string     `bun:"high" view:"max"`
	First         time.Time  `bun:"first" view:"min"`
	Until         *time.Time `bun:"until,type:timestamp" view:"max"`
	Tags          []string   `bun:"tags" view:"last"`
	Note          *string    `bun:"note" view:"last"`
	At            int64      `bun:"at" view:"position"`
}

// The collation is not that of bytes, the side table's sums are wider than these, and the columns are in another order.
const talliesSQL = `
create table %[1]s.tallies (
  n smallint not null, day date, place text, sum smallint not null, big numeric not null, low int, high text collate "und-x-icu" not null,
  first timestamptz not null, until timestamp, hidden text default 'x', tags text[], note varchar(40), at bigint not null,
  primary key (day, place)
);
create table %[1]s.counts (place text primary key, n bigint not null)`

// count is a table that a transaction writes before tallies, whatever the order in which they are declared.
type count struct {
	bun.BaseModel `bun:"table:counts"`
	Place         string `bun:"place,pk"`
	N             int64  `bun:"n" view:"count"`
}

type (
	added struct{ Rows []tally }
	begun struct{ N int }
)

var (
	tallies = projections.NewTotals[tally]()
	counts  = projections.NewTotals[count]()

	totalsProjector = &projections.Projector{
		Name:   "totals",
		Tables: []projections.Table{tallies, counts},
		Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[added]) error {
			for _, row := range e.Data.Rows {
				if err := tallies.Add(s, row); err != nil {
					return err
				}
				if err := counts.Add(s, count{Place: row.Place}); err != nil {
					return err
				}
			}
			return nil
		})},
	}
	totalsEvents = []projections.EventType{projections.JSON[added]("Added")}
)

func setupTotals(ctx context.Context, conn *pgx.Conn) error {
	for _, schema := range []string{"parts", "direct", "caughtup", "live"} {
		if _, err := conn.Exec(ctx, "create schema "+schema+"; "+fmt.Sprintf(talliesSQL, schema), pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return nil
}

// Whatever the order of aggregates and groups, and however they are cut: batches of a rebuild at the same time, rebuilds
// one after the other, catch-ups and live transactions leave what a fold over the events in their order leaves.
// This was seen to fail with the merge left out, with the last value taken of the row that comes last, and with strings
// compared by the column's collation.
func TestTotalsDoNotDependOnOrder(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, setupTotals)
	set, err := projections.NewSet(totalsEvents, totalsProjector)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		events := drawAdded(t)
		empty(t, pool, "parts", "direct", "caughtup", "live")

		rebuildParts(t, pool, set.In("parts", ""), shares(t, events))
		for _, share := range shares(t, events) {
			totalsBatch(t, pool, set.In("direct", "").Rebuild(), share)
		}
		var late []projections.New
		rest := rapid.IntRange(0, len(events)).Draw(t, "prefix")
		rebuildParts(t, pool, set.In("caughtup", ""), shares(t, events[:rest]))
		catchUp := set.In("caughtup", "").CatchUp()
		for _, share := range shares(t, events[rest:]) {
			totalsBatch(t, pool, catchUp, share)
			late = append(late, share...)
		}
		if len(late)+rest != len(events) {
			t.Fatal("the test lost events")
		}
		for _, group := range drawGroups(t, events) {
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				return set.In("live", "").Project(t.Context(), projections.Pgx(tx), group...)
			})
			if err != nil {
				t.Fatal(err)
			}
		}

		want := totalsByHand(events)
		for _, schema := range []string{"parts", "direct", "caughtup", "live"} {
			if got := totalsIn(t, pool, schema); got != want {
				t.Fatalf("%s:\n%s\nwant\n%s", schema, got, want)
			}
		}
		memory, stored := set.Memory(), set.In("live", "").Memory()
		for _, group := range drawGroups(t, events) {
			if err := memory.Project(t.Context(), group...); err != nil {
				t.Fatal(err)
			}
		}
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return stored.Load(t.Context(), projections.Pgx(tx)) }); err != nil {
			t.Fatal(err)
		}
		for _, model := range []reflect.Type{reflect.TypeFor[tally](), reflect.TypeFor[count]()} {
			if got, want := listedTotals(t, memory, model), listedTotals(t, stored, model); got != want {
				t.Fatalf("in memory:\n%s\nwant\n%s", got, want)
			}
		}
	})
}

func listedTotals(t *rapid.T, m *projections.Memory, model reflect.Type) string {
	_, rows, err := m.Rows(model)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tester is *testing.T or *rapid.T.
type tester interface {
	rapid.TB
	Context() context.Context
}

func empty(t tester, pool *pgxpool.Pool, schemas ...string) {
	for _, schema := range schemas {
		if _, err := pool.Exec(t.Context(), fmt.Sprintf("truncate %[1]s.tallies, %[1]s.counts", schema)); err != nil {
			t.Fatal(err)
		}
	}
}

func drawAdded(t *rapid.T) (events []projections.New) {
	day := time.Date(2024, 2, 28, 22, 0, 0, 0, time.FixedZone("east", 3*3600))
	row := rapid.Custom(func(t *rapid.T) tally {
		at := rapid.IntRange(0, 30).Draw(t, "hours")
		a := tally{
			Place: rapid.SampledFrom([]string{"", "a", "a\x01", "ab", "é"}).Draw(t, "place"),
			Day:   day.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "day")) * time.Hour),
			Sum:   rapid.Int32Range(-300, 300).Draw(t, "sum"),
			Big:   rapid.SampledFrom([]int64{1 << 57, -1 << 57, 1}).Draw(t, "big"),
			High:  rapid.SampledFrom([]string{"", "a", "B", "Z", "é", "ab"}).Draw(t, "high"),
			First: day.Add(time.Duration(at) * time.Hour),
			Tags:  rapid.SampledFrom([][]string{nil, {}, {"x"}, {"x", "y"}}).Draw(t, "tags"),
		}
		if n := rapid.Int64Range(-2, 2).Draw(t, "low"); n != 0 {
			a.Low, a.Until = &n, &a.First
		}
		if n := rapid.IntRange(0, 2).Draw(t, "note"); n > 0 {
			note := strings.Repeat("n", n)
			a.Note = &note
		}
		return a
	})
	sequences := map[byte]int64{}
	for i := range rapid.IntRange(1, 20).Draw(t, "events") {
		id := rapid.ByteRange(1, 5).Draw(t, "aggregate")
		sequences[id]++
		events = append(events, projections.New{
			Meta: projections.Meta{Position: int64(i + 1), AggregateID: projections.UUID(uuid.UUID{id}), Sequence: sequences[id], Type: "Added"},
			Data: added{rapid.SliceOfN(row, 0, 4).Draw(t, "rows")},
		})
	}
	return events
}

// shares deals the aggregates out to batches, in any order.
func shares(t *rapid.T, events []projections.New) (list [][]projections.New) {
	byID := map[projections.ID][]projections.New{}
	var ids []projections.ID
	for _, e := range events {
		if byID[e.AggregateID] == nil {
			ids = append(ids, e.AggregateID)
		}
		byID[e.AggregateID] = append(byID[e.AggregateID], e)
	}
	ids = rapid.Permutation(ids).Draw(t, "order")
	list = make([][]projections.New, rapid.IntRange(1, 3).Draw(t, "batches"))
	for _, id := range ids {
		i := rapid.IntRange(0, len(list)-1).Draw(t, "batch")
		list[i] = append(list[i], byID[id]...)
	}
	return list
}

// rebuildParts has all batches open at the same time, and then merges what they leave.
func rebuildParts(t tester, pool *pgxpool.Pool, set *projections.Set, batches [][]projections.New) {
	ctx := t.Context()
	exec := func(sql string) {
		if _, err := pool.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, target := range set.Totals() {
		exec(target.CreatePartial())
	}
	var open []pgx.Tx
	for _, events := range batches {
		tx, err := pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, tx)
		if err := applyNew(ctx, tx, set.RebuildPartial(), events); err != nil {
			t.Fatal(err)
		}
	}
	for _, tx := range open {
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range set.Totals() {
		exec(target.Merge())
		schema, _, _ := strings.Cut(target.Relation, ".")
		exec("drop table " + schema + "." + target.Partial)
	}
}

func totalsBatch(t *rapid.T, pool *pgxpool.Pool, run *projections.Run, events []projections.New) {
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return applyNew(t.Context(), tx, run, events) }); err != nil {
		t.Fatal(err)
	}
}

// applyNew runs a batch of events, which it stores first.
func applyNew(ctx context.Context, tx pgx.Tx, run *projections.Run, events []projections.New) error {
	var ids []projections.ID
	for _, e := range events {
		if !slices.Contains(ids, e.AggregateID) {
			ids = append(ids, e.AggregateID)
		}
	}
	if err := run.Begin(ctx, tx, ids); err != nil {
		return err
	}
	for _, e := range events {
		data, err := json.Marshal(e.Data)
		if err != nil {
			return err
		}
		raw := &projections.Raw{Position: e.Position, Sequence: e.Sequence, AggregateID: e.AggregateID, Type: []byte(e.Type), Data: data}
		if err := run.Apply(raw); err != nil {
			return err
		}
	}
	_, err := run.Flush()
	return err
}

// totalsByHand folds the events in their order, as totalsIn prints the outcome.
func totalsByHand(events []projections.New) string {
	type total struct {
		tally
		sum, big, n, at int64
	}
	rows, places := map[string]*total{}, map[string]int{}
	for _, e := range events {
		for _, a := range e.Data.(added).Rows {
			places[a.Place]++
			key := a.Place + " " + a.Day.Format(time.DateOnly)
			r := rows[key]
			if r == nil {
				r = &total{tally: a}
				rows[key] = r
			}
			r.sum, r.big, r.n, r.at = r.sum+int64(a.Sum), r.big+a.Big, r.n+1, e.Position
			if r.Low == nil || a.Low != nil && *a.Low < *r.Low {
				r.Low = a.Low
			}
			if r.Until == nil || a.Until != nil && a.Until.After(*r.Until) {
				r.Until = a.Until
			}
			r.High = max(r.High, a.High)
			if a.First.Before(r.First) {
				r.First = a.First
			}
			r.Tags, r.Note = a.Tags, a.Note
		}
	}
	var lines []string
	for key, r := range rows {
		low, until, note, tags := "-", "-", "-", "-"
		if r.Low != nil {
			low, until = fmt.Sprint(*r.Low), r.Until.Format("2006-01-02 15:04:05")
		}
		if r.Note != nil {
			note = *r.Note
		}
		if r.Tags != nil {
			tags = "{" + strings.Join(r.Tags, ",") + "}"
		}
		lines = append(lines, fmt.Sprintf("%s: %d %d %d %s %s %s %s %s %s %d", key, r.sum, r.big, r.n, low, r.High,
			r.First.UTC().Format("2006-01-02 15:04:05"), until, tags, note, r.at))
	}
	for place, n := range places {
		lines = append(lines, fmt.Sprintf("%s: %d", place, n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func totalsIn(t *rapid.T, pool *pgxpool.Pool, schema string) (text string) {
	err := pool.QueryRow(t.Context(), fmt.Sprintf(`
		select coalesce(string_agg(line, e'\n' order by line collate "C"), '') from (
			select format('%%s %%s: %%s %%s %%s %%s %%s %%s %%s %%s %%s %%s', place, day, sum, big, n, coalesce(low::text, '-'), high,
				(first at time zone 'utc')::timestamp(0), coalesce(until::timestamp(0)::text, '-'), coalesce(tags::text, '-'), coalesce(note, '-'), at) as line
			from %[1]s.tallies
			union all
			select format('%%s: %%s', place, n) from %[1]s.counts
		) l`, schema)).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
