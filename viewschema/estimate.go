package viewschema

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/estimate"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// EstimateOptions say what a database does not know; the zero value is good.
type EstimateOptions struct {
	Rates       *estimate.Rates // nil: those of the last rebuild here, or else of the reference machine, held against a probe
	ServerCores int             // of a server on another machine; 0: as many as are needed. One on this machine has WorkerCores
	WorkerCores int             // of this machine; 0: as many as are needed
}

// Estimate is what a plan's rebuild is expected to take and to need.
type Estimate struct {
	estimate.Estimate
	Total float64       `json:"total_seconds"`
	Work  estimate.Work `json:"work"`
	Site  estimate.Site `json:"site"`
	Basis Basis         `json:"basis"`
	// Assumed are sentences about what could not be looked up.
	Assumed []string `json:"assumed"`
}

// Basis is where an estimate's rates come from: one of Last and Probe, or neither, if they were given.
type Basis struct {
	Machine string            `json:"machine"` // that the rates are of, before factors
	Last    *LastRebuild      `json:"last_rebuild,omitempty"`
	Probe   *estimate.Probe   `json:"probe,omitempty"`
	Factors *estimate.Factors `json:"factors,omitempty"` // of Probe
}

// LastRebuild is the last rebuild here that took long enough to tell something, and how much longer it took than Machine would have.
type LastRebuild struct {
	Run     int64     `json:"run"` // see Runs
	Began   time.Time `json:"began"`
	From    int       `json:"from"`
	To      int       `json:"to"`
	Events  int64     `json:"events"`
	Rows    int64     `json:"rows"`
	Workers int       `json:"workers"`
	Replay  float64   `json:"replay_seconds"`
	Index   float64   `json:"index_seconds"`
	Analyze float64   `json:"analyze_seconds"`

	ReplayFactor float64 `json:"replay_factor"`
	IndexFactor  float64 `json:"index_factor"`

	migration int64
	batches   int
}

// lookTimeout bounds each statement by which an estimate looks at the databases.
const lookTimeout = 5 * time.Second

// peek runs fn in a transaction that can change nothing, and whose statements take at most lookTimeout.
func peek(ctx context.Context, db pg.Beginner, fn func(tx pgx.Tx) error) error {
	return pg.InTx(ctx, db, pg.PointList, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set transaction read only"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "select set_config('statement_timeout', $1, true), set_config('lock_timeout', '1s', true), set_config('jit', 'off', true)",
			pg.Milliseconds(lookTimeout))
		if err != nil {
			return err
		}
		return fn(tx)
	})
}

// Estimate says what the plan's rebuild is expected to take and to need, all of it, whatever of it is done already. It touches nothing,
// and takes a few seconds, in which it reads a sample of the events and keeps a core of the server busy. It is nil if there is nothing
// to replay.
func (s *Schema) Estimate(ctx context.Context, plan *Plan, o EstimateOptions) (*Estimate, error) {
	if len(plan.Projectors) == 0 {
		return nil, nil
	}
	source, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	f := &forecast{Schema: s, plan: plan, source: source, result: &Estimate{Assumed: []string{}}}
	if err := f.make(ctx, o); err != nil {
		return nil, fmt.Errorf("estimating the rebuild: %w", err)
	}
	return f.result, nil
}

// forecast is an Estimate in the making.
type forecast struct {
	*Schema
	plan    *Plan
	source  *eventstore.Reader
	layout  eventstore.Layout
	sorting eventstore.Sorting // of a pass
	result  *Estimate
	apply   float64 // seconds per event that the handlers take in memory; 0: it was not measured
}

func (f *forecast) make(ctx context.Context, o EstimateOptions) (err error) {
	tail, err := f.tail(ctx)
	if err != nil {
		return err
	}
	r := f.result
	if f.layout, err = f.source.Layout(ctx, f.events); err != nil {
		return err
	}
	passes := 1
	if f.plan.Reading != nil {
		passes = f.plan.Reading.Passes
	}
	f.sorting = f.source.Sorting(f.layout, passes)
	if err := f.site(ctx, o); err != nil {
		return err
	}
	if err := f.work(ctx); err != nil {
		return err
	}
	rates, err := f.rates(ctx, o)
	if err != nil {
		return err
	}
	if r.Work.Tail, err = tail(); err != nil {
		return err
	}
	r.Estimate = rates.Make(r.Work, r.Site)
	r.Total = r.Seconds.Total()
	return nil
}

func (f *forecast) assume(format string, args ...any) {
	f.result.Assumed = append(f.result.Assumed, fmt.Sprintf(format, args...))
}

// unless lets the estimate go on without what a statement did not find out in time.
func (f *forecast) unless(err error, format string, args ...any) error {
	if pg.IsStatementTimeout(err) || pg.IsLockTimeout(err) {
		f.assume("%s: %v", fmt.Sprintf(format, args...), err)
		return nil
	}
	return err
}

// leastTail is how long at least to look how fast events come.
const leastTail = time.Second

// tail begins to look how many events come, and returns what ends that and returns how many do so in a second.
func (f *forecast) tail(ctx context.Context) (perSecond func() (float64, error), err error) {
	highest := func() (at time.Time, position int64, err error) {
		err = peek(ctx, f.events, func(tx pgx.Tx) error {
			position, err = f.source.Highest(ctx, tx)
			at = time.Now()
			return err
		})
		return at, position, err
	}
	began, first, err := highest()
	if err != nil || f.source.SharedPositions() {
		return func() (float64, error) { return 0, nil }, f.unless(err, "no events come meanwhile; the highest position cannot be read")
	}
	return func() (float64, error) {
		if err := pg.Pause(ctx, max(0, leastTail-time.Since(began))); err != nil {
			return 0, err
		}
		ended, last, err := highest()
		if err != nil {
			return 0, f.unless(err, "no events come meanwhile; the highest position cannot be read")
		}
		return float64(max(0, last-first)) / ended.Sub(began).Seconds(), nil
	}, nil
}

// site asks the servers what they have.
func (f *forecast) site(ctx context.Context, o EstimateOptions) error {
	s := &f.result.Site
	s.Workers, s.WorkerCores, s.Cores = f.opts.Workers, float64(o.WorkerCores), float64(o.ServerCores)
	var sort int64
	if err := f.events.QueryRow(ctx, "select pg_size_bytes(current_setting('work_mem'))").Scan(&sort); err != nil {
		return err
	}
	if limit := f.sorting.Memory; limit > 0 {
		sort = min(sort, limit)
	}
	s.SortMemory = float64(sort)
	err := f.db.QueryRow(ctx, `
		select 1 + least(current_setting('max_parallel_maintenance_workers')::int, current_setting('max_parallel_workers')::int),
			pg_size_bytes(current_setting('maintenance_work_mem')), coalesce(inet_server_addr() = inet_client_addr(), true)`).
		Scan(&s.Builders, &s.IndexMemory, &s.Shared)
	if err != nil {
		return err
	}
	if s.Shared = s.Shared && s.Cores == 0; s.Shared {
		s.Cores = s.WorkerCores
	}
	if s.Cores == 0 {
		f.assume("the server has as many cores as the workers can keep busy; say how many: --server-cores")
	}
	if f.elsewhere() {
		f.assume("the two servers together have the cores of one")
	}
	return nil
}

// work finds out what there is to do.
func (f *forecast) work(ctx context.Context) error {
	set := f.projections(f.plan, "")
	parallel := set.Parallel()
	w := &f.result.Work
	w.EventBytes = usualEvent
	if f.layout.Bytes > 0 && f.layout.Rows > 0 {
		w.EventBytes = float64(f.layout.Bytes) / float64(f.layout.Rows)
	} else {
		f.assume("an event has %d bytes", usualEvent)
	}
	w.StoreBytes = float64(f.layout.Bytes)
	w.InSQL = len(parallel.Projectors()) > 0 && parallel.OnlySQL()
	w.Ordered = f.layout.Indexed && f.layout.Correlation*f.layout.Correlation > 0.5 && !f.sorting.Always // about as the planner takes it
	if f.plan.Reading != nil {
		w.Passes, w.Batches, w.Reads = f.plan.Reading.Passes, f.plan.Batches, reads(f.layout, f.plan.Reading.Passes)
	}
	handled, err := f.handled(ctx)
	if err != nil {
		return err
	}
	if len(parallel.Projectors()) > 0 {
		w.Events = float64(f.plan.Events) * handled(parallel)
	}
	for _, part := range set.Ordered() {
		w.LaneEvents += float64(f.plan.Events) * handled(part)
	}
	return f.tables(ctx, parallel)
}

// usualEvent is how many bytes an event is taken to have where that cannot be known.
const usualEvent = 250

// reads is how often a table is read from disk.
func reads(l eventstore.Layout, passes int) float64 {
	if l.Cached() {
		return 0
	}
	return l.TimesRead(passes)
}

// handled returns what tells which part of the events a set handles, by a sample.
func (f *forecast) handled(ctx context.Context) (part func(*projections.Set) float64, err error) {
	var types []eventstore.TypeCount
	err = peek(ctx, f.events, func(tx pgx.Tx) error {
		types, _, err = f.source.Types(ctx, tx, false)
		return err
	})
	if err := f.unless(err, "projectors handle all events; their types cannot be counted"); err != nil {
		return nil, err
	}
	return func(set *projections.Set) float64 {
		var all, ours int64
		known := map[string]bool{}
		for _, name := range set.Types() {
			known[name] = true
		}
		for _, t := range types {
			all += t.Events
			if known[t.Type] {
				ours += t.Events
			}
		}
		if all == 0 || len(set.SQLTables()) > 0 { // a query gets all of them
			return 1
		}
		return float64(ours) / float64(all)
	}, nil
}

// rates finds the rates to go by: those that were given, those of the last rebuild here, or the reference's, held against a probe.
func (f *forecast) rates(ctx context.Context, o EstimateOptions) (estimate.Rates, error) {
	rates, basis := estimate.Reference(), &f.result.Basis
	if o.Rates != nil {
		basis.Machine = o.Rates.Machine
		return *o.Rates, nil
	}
	basis.Machine = rates.Machine
	last, err := f.last(ctx)
	if err != nil {
		return rates, err
	}
	if last != nil {
		work, site, err := f.pastWork(ctx, last)
		if err != nil {
			return rates, err
		}
		took := estimate.Seconds{Replay: last.Replay, Index: last.Index, Analyze: last.Analyze}
		rates, last.ReplayFactor, last.IndexFactor = rates.Fitted(work, site, took)
		basis.Last = last
		return rates, nil
	}
	if basis.Probe, err = f.probe(ctx); err != nil {
		return rates, err
	}
	factors := basis.Probe.Against(rates.Probe)
	basis.Factors = &factors
	return rates.Times(factors), nil
}

// coreProbe keeps a core of the server busy for some tenths of a second. No setting matters to it, and no table.
const coreProbe = `
	select count(*)
	from (select pg_catalog.md5(i::text) collate "C" as m from pg_catalog.generate_series(1, 200000) i order by 1 offset 0) sorted`

// probe looks how fast the machines are.
func (f *forecast) probe(ctx context.Context) (*estimate.Probe, error) {
	p := &estimate.Probe{Apply: f.apply}
	err := peek(ctx, f.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select set_config('work_mem', '64MB', true)"); err != nil {
			return err
		}
		quickest := math.Inf(1)
		for range 3 { // something else may come between
			began := time.Now()
			if _, err := tx.Exec(ctx, coreProbe); err != nil {
				return err
			}
			quickest = min(quickest, time.Since(began).Seconds())
		}
		p.Core = quickest
		return nil
	})
	if err := f.unless(err, "the server is as fast as that of %s", f.result.Basis.Machine); err != nil {
		return nil, err
	}
	err = peek(ctx, f.events, func(tx pgx.Tx) error {
		read, err := f.source.Probe(ctx, tx, f.sorting)
		if err == nil && read.Events >= leastProbed {
			p.Read = read.Took.Seconds() / float64(read.Events)
		}
		return err
	})
	return p, f.unless(err, "reading takes as long as on %s", f.result.Basis.Machine)
}

// leastProbed is fewer events than tell anything: the statement itself takes longer.
const leastProbed = 1_000

// last finds the last rebuild that took a second or more; nil if there was none.
func (f *forecast) last(ctx context.Context) (*LastRebuild, error) {
	l := &LastRebuild{}
	err := f.db.QueryRow(ctx, f.sql(`
		select r.id, r.migration_id, r.started_at, r.from_version, r.to_version, (r.phases ->> 'replay')::float8, coalesce((r.phases ->> 'index')::float8, 0),
			coalesce((r.phases ->> 'analyze')::float8, 0),
			b.events, b.rows, b.batches, b.workers
		from %SCHEMA%.projector_runs r
		cross join lateral (
			select coalesce(sum(events), 0)::bigint as events, coalesce(sum(rows), 0)::bigint as rows, count(*) as batches, count(distinct worker) as workers
			from %SCHEMA%.projector_batches
			where migration_id = r.migration_id and phase = $1) b
		where r.command = '`+commandOnline+`' and r.outcome = 'done' and (r.phases ->> 'replay')::float8 >= 1 and b.events > 0 and b.rows > 0
		order by r.started_at desc
		limit 1`), int(replay.PhaseReplay)).
		Scan(&l.Run, &l.migration, &l.Began, &l.From, &l.To, &l.Replay, &l.Index, &l.Analyze, &l.Events, &l.Rows, &l.batches, &l.Workers)
	switch {
	case errors.Is(err, pgx.ErrNoRows), pg.IsUndefined(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking for the last rebuild: %w", err)
	}
	return l, nil
}

// pastWork is what the last rebuild had to do, and where, as far as it can still be told: the event table was smaller, and otherwise
// like today's.
func (f *forecast) pastWork(ctx context.Context, l *LastRebuild) (w estimate.Work, s estimate.Site, err error) {
	layout := f.layout
	if share := float64(l.Events) / max(1, f.result.Work.Events); share < 1 {
		layout.Bytes, layout.Rows = int64(share*float64(layout.Bytes)), int64(share*float64(layout.Rows))
	}
	w, s = f.result.Work, f.result.Site
	s.Workers = l.Workers
	w.Events, w.LaneEvents, w.StoreBytes = float64(l.Events), 0, float64(layout.Bytes)
	w.Batches, w.Passes = l.batches, min(l.batches, replay.Passes(layout, l.Workers))
	w.Reads = reads(layout, w.Passes)
	w.Tables, err = f.pastTables(ctx, l)
	return w, s, err
}
