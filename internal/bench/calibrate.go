package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/estimate"
)

// observed is a size of the bank: what was expected of its rebuild, and what it took.
type observed struct {
	events   int
	database string
	forecast forecast
	rebuild  time.Duration
	estimate.Observed
}

func (o observed) estimated() estimated {
	e := o.forecast.Estimate
	took := o.Seconds
	took.Start = o.rebuild.Seconds() - took.Replay - took.Index - took.Analyze
	return estimated{Events: o.events, Estimate: e.Total, Said: e.Seconds, Rebuild: o.rebuild.Seconds(), Took: took}
}

// observe measures a size of the bank with its floor, and asks what was to be expected.
func (b *bench) observe(ctx context.Context, events int) (o observed, err error) {
	c, err := b.compare(ctx, events)
	if err != nil {
		return o, err
	}
	f, err := b.forecast(ctx, asBank, c.database)
	if err != nil {
		return o, err
	}
	s := newSize(events, c)
	o = observed{events: events, database: c.database, forecast: f, rebuild: c.rebuild()}
	o.Observed = estimate.Observed{
		Work: f.Estimate.Work, Seconds: parts(c.rebuilds), FloorRead: s.Read, FloorCopy: s.Write,
		WorkerCPU: median(c.rebuilds, func(o outcome) float64 { return o.CPU.Seconds() }),
	}
	return o, nil
}

// observeTenfold is observe for the largest store, once and without a floor.
func (b *bench) observeTenfold(ctx context.Context) (o observed, err error) {
	t, err := b.tenfold(ctx)
	if err != nil {
		return o, err
	}
	o = observed{events: 10 * b.events, forecast: t.forecast, rebuild: t.rebuild.Wall}
	o.Observed = estimate.Observed{Work: t.forecast.Estimate.Work, Seconds: parts([]outcome{t.rebuild})}
	o.Work.Tables = t.tables
	return o, nil
}

// parts are the medians of the steps; what comes before and between them is not among them.
func parts(rebuilds []outcome) estimate.Seconds {
	of := func(phase string) float64 {
		return median(rebuilds, func(o outcome) float64 { return o.Phases[phase] })
	}
	return estimate.Seconds{Replay: of("replay"), Index: of("merge") + of("index"), Analyze: of("analyze")}
}

// phases reads how long each phase of the last rebuild took.
func (b *bench) phases(ctx context.Context, database string) (phases map[string]float64, err error) {
	return query[map[string]float64](ctx, b, database,
		"select phases from view_schema.projector_runs where command = 'migrate online' order by started_at desc limit 1")
}

// builtTables says how large the tables are that a rebuild has left.
func (b *bench) builtTables(ctx context.Context, database string) (tables []estimate.Table, err error) {
	err = b.with(ctx, database, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
			select relname::text, reltuples::float8, pg_relation_size(c.oid)::float8,
				(select count(*) from pg_catalog.pg_index where indrelid = c.oid), pg_indexes_size(c.oid)::float8
			from pg_catalog.pg_class c
			where relnamespace = 'view_schema'::regnamespace and relkind = 'r' and relname like $1`, "%"+strings.ReplaceAll(suffix, "_", `\_`))
		if err == nil {
			tables, err = pgx.CollectRows(rows, pgx.RowToStructByPos[estimate.Table])
		}
		return err
	})
	return tables, err
}

// calibrate makes rates of what was measured, and prints them.
func (b *bench) calibrate(ctx context.Context, seen []observed) error {
	small, large := seen[0], seen[1]
	m := estimate.Measured{
		Machine: fmt.Sprintf("%d cores for server and workers, PostgreSQL %s, %s", b.report.Cores, b.report.PostgreSQL, b.report.Began.Format("2006-01-02")),
		Site:    large.forecast.Estimate.Site, Probe: large.forecast.Estimate.Basis.Probe,
	}
	if len(seen) > 2 {
		m.Huge = &seen[2].Observed
	}
	for _, measure := range []func(context.Context, *estimate.Measured) error{b.few, b.inOrder, b.afterwards} {
		if err := measure(ctx, &m); err != nil {
			return err
		}
	}
	for _, o := range []*observed{&small, &large} { // bytes count of the last
		if err := b.weigh(ctx, o, &m); err != nil {
			return err
		}
	}
	m.Small, m.Large = small.Observed, large.Observed
	rates := m.Calibrate()
	b.report.Rates = &rates
	if b.rates == "" {
		return nil
	}
	text, err := json.MarshalIndent(rates, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.rates, append(text, '\n'), 0o644)
}

// few measures a rebuild of 1,000 events.
func (b *bench) few(ctx context.Context, m *estimate.Measured) error {
	database, err := b.store(ctx, 1_000)
	if err != nil {
		return err
	}
	o, err := b.rebuild(ctx, asBank, database, 1_000)
	m.Start, m.MemoryOfFew = o.Wall.Seconds(), float64(o.Peak)
	return err
}

// inOrder measures the rebuild of a projector that needs the order of the store.
func (b *bench) inOrder(ctx context.Context, m *estimate.Measured) error {
	database, err := b.store(ctx, b.events/10)
	if err != nil {
		return err
	}
	f, err := b.forecast(ctx, asLane, database)
	if err != nil {
		return err
	}
	o, err := b.migrate(ctx, asLane, b.server.URL(database), "online")
	m.Lane = max(o.Wall.Seconds()-m.Start, o.Wall.Seconds()/2) / max(1, f.Estimate.Work.LaneEvents)
	return err
}

// afterwards measures catch-ups.
func (b *bench) afterwards(ctx context.Context, m *estimate.Measured) error {
	t, err := b.follow(ctx)
	if err != nil {
		return err
	}
	wall := median(t.catchUps, func(o outcome) float64 { return o.Wall.Seconds() })
	m.CatchUp = max(wall-m.Start, wall/2) / float64(b.events/100)
	return nil
}

// weigh rebuilds once more, and counts the bytes.
func (b *bench) weigh(ctx context.Context, o *observed, m *estimate.Measured) error {
	if err := b.reset(ctx, o.database); err != nil {
		return err
	}
	lsn, err := query[string](ctx, b, o.database, "select pg_current_wal_lsn()::text")
	if err != nil {
		return err
	}
	rebuilt, err := b.migrate(ctx, asBank, b.server.URL(o.database), "online")
	if err != nil {
		return err
	}
	wal, err := query[int64](ctx, b, o.database, "select pg_wal_lsn_diff(pg_current_wal_lsn(), $1::text::pg_lsn)::bigint", lsn)
	if err != nil {
		return err
	}
	m.WAL, m.Memory = float64(wal), float64(rebuilt.Peak)
	if o.Work.Tables, err = b.builtTables(ctx, o.database); err != nil {
		return err
	}
	m.Sorted, err = b.sorted(ctx, o.database)
	return err
}

// sorted is how many bytes a sort of all events takes.
func (b *bench) sorted(ctx context.Context, database string) (float64, error) {
	var nodes []struct {
		Plan struct {
			Kilobytes float64 `json:"Sort Space Used"`
		}
	}
	err := b.with(ctx, database, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "set max_parallel_workers_per_gather = 0; set enable_indexscan = off"); err != nil {
			return err
		}
		return conn.QueryRow(ctx, `
			explain (analyze, format json)
			select position, aggregate_id, sequence_number, event_type, data, created_at from events order by aggregate_id, sequence_number`).Scan(&nodes)
	})
	if err == nil && (len(nodes) == 0 || nodes[0].Plan.Kilobytes == 0) {
		err = fmt.Errorf("sorting the events of %s: the plan has no sort", database)
	}
	if err != nil {
		return 0, err
	}
	return nodes[0].Plan.Kilobytes * 1024, nil
}
