package viewschema

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// Determinism is what came of replaying some aggregates twice.
type Determinism struct {
	Aggregates int               `json:"aggregates"` // that were replayed
	Events     int               `json:"events"`
	Skipped    []string          `json:"skipped"` // projectors that may rely on more than their aggregate, see projections.Order
	Tables     []TableDifference `json:"tables"`
	Elapsed    time.Duration     `json:"-"`
}

// Same says whether both replays have made the same rows.
func (d *Determinism) Same() bool {
	return !slices.ContainsFunc(d.Tables, func(t TableDifference) bool { return t.Differ > 0 })
}

// The tables of the two replays, and of a third that is like the first, have these suffixes.
const (
	rebuiltSuffix  = "_d1"
	caughtUpSuffix = "_d2"
	rebuiltAgain   = "_d3"
)

const (
	mostDeterminismEvents = 100_000 // of the sample; they are in memory
	catchUpRounds         = 16      // groups of events in the second replay
	determinismLockWait   = "1s"
)

// VerifyDeterminism replays a sample of at most so many aggregates twice: once as a rebuild does, in the order of aggregates, and
// once as catch-ups do, in many groups, in the order of positions, and with the aggregates of each group in reverse. What
// projectors make of an event must depend on the event and its aggregate's rows alone, so both have to make the same rows.
//
// It makes tables of its own and does everything in one transaction, which it rolls back: nothing stays. While it lasts, vacuum
// keeps what dies, and tables that the SQL files refer to by foreign keys cannot be written to; for a lock it waits at most 1 s.
//
// What is the same for a whole transaction or for long, such as now() in SQL or today's date, is not found.
func (s *Schema) VerifyDeterminism(ctx context.Context, sample int) (*Determinism, error) {
	began := time.Now()
	source, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	d := &determinism{Schema: s, source: source, result: &Determinism{Skipped: []string{}, Tables: []TableDifference{}}}
	for _, p := range s.def.Projectors {
		if p.Order != projections.ByAggregate {
			d.result.Skipped = append(d.result.Skipped, p.Name)
			continue
		}
		for _, t := range p.Tables {
			d.result.Tables = append(d.result.Tables, TableDifference{Table: t.TableName(), Projector: p.Name, Hints: []string{}, Examples: []RowDifference{}})
		}
	}
	d.set = s.def.set.Parallel()
	// One snapshot: queries must not see events that come meanwhile.
	tx, err := s.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, err
	}
	defer func() {
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(c)
	}()
	if err := d.run(ctx, tx, sample); err != nil {
		return nil, fmt.Errorf("verifying determinism: %w", err)
	}
	d.result.Elapsed = time.Since(began)
	return d.result, nil
}

// determinism is one run of VerifyDeterminism.
type determinism struct {
	*Schema
	source *eventstore.Reader
	set    *projections.Set
	result *Determinism

	aggregates []projections.ID
	events     []projections.Raw // by aggregate and sequence
	began      time.Time         // when the first replay began, by the server's clock
}

func (d *determinism) run(ctx context.Context, tx pgx.Tx, sample int) error {
	_, err := tx.Exec(ctx, "select set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', '60s', true), "+pg.Unbounded, determinismLockWait)
	if err != nil {
		return err
	}
	if err := d.read(ctx, tx, sample); err != nil {
		return err
	}
	d.result.Aggregates, d.result.Events = len(d.aggregates), len(d.events)
	if err := d.createSchema(ctx, tx); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, "select clock_timestamp()").Scan(&d.began); err != nil {
		return err
	}
	if err := d.rebuild(ctx, tx, rebuiltSuffix); err != nil {
		return err
	}
	if err := d.catchUp(ctx, tx, caughtUpSuffix); err != nil {
		return err
	}
	for i := range d.result.Tables {
		if err := d.compare(ctx, tx, &d.result.Tables[i], rebuiltSuffix, caughtUpSuffix); err != nil {
			return err
		}
	}
	if d.result.Same() {
		return nil
	}
	return d.explain(ctx, tx)
}

// read picks the aggregates and reads their events, in the database of the events.
func (d *determinism) read(ctx context.Context, tx pgx.Tx, sample int) error {
	read := func(events pgx.Tx) error {
		picked, err := d.source.Sample(ctx, events, sample, mostDeterminismEvents)
		if err != nil {
			return err
		}
		d.aggregates = []projections.ID{}
		for _, a := range picked {
			d.aggregates = append(d.aggregates, a.ID)
		}
		for e, err := range d.source.Events(ctx, events, eventstore.Selection{Aggregates: d.aggregates}) {
			if err != nil {
				return err
			}
			d.events = append(d.events, e.Clone())
		}
		return nil
	}
	if d.elsewhere() {
		return pg.InTx(ctx, d.Schema.events, pg.PointList, read)
	}
	return read(tx)
}

// make creates the tables of one replay, and returns what fills them.
func (d *determinism) make(ctx context.Context, tx pgx.Tx, suffix string) (*projections.Set, *replay.Queries, error) {
	for _, table := range tablesOf(d.set.Projectors()...) {
		if err := d.runFile(ctx, tx, d.def.files[table+".sql"], suffix); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrDefinition, err)
		}
	}
	set := d.set.In(d.def.Schema, suffix)
	return set, replay.NewQueries(set, d.source), fits(ctx, tx, set, d.source)
}

// rebuild is a replay in one batch, aggregate by aggregate.
func (d *determinism) rebuild(ctx context.Context, tx pgx.Tx, suffix string) error {
	set, queries, err := d.make(ctx, tx, suffix)
	if err != nil {
		return err
	}
	if err := apply(ctx, tx, set.Rebuild(), nil, d.events); err != nil {
		return err
	}
	_, err = queries.Fill(ctx, tx, eventstore.Selection{Aggregates: d.aggregates})
	return err
}

// catchUp is a replay in groups, as if each were what had been appended since the one before.
func (d *determinism) catchUp(ctx context.Context, tx pgx.Tx, suffix string) error {
	set, queries, err := d.make(ctx, tx, suffix)
	if err != nil {
		return err
	}
	run := set.CatchUp()
	for group := range slices.Chunk(inOrderOfPositions(d.events), max(1, (len(d.events)+catchUpRounds-1)/catchUpRounds)) {
		slices.SortStableFunc(group, func(a, b projections.Raw) int { return b.AggregateID.Compare(a.AggregateID) })
		var aggregates []projections.ID
		for _, e := range group {
			if n := len(aggregates); n == 0 || aggregates[n-1] != e.AggregateID {
				aggregates = append(aggregates, e.AggregateID)
			}
		}
		if err := apply(ctx, tx, run, aggregates, group); err != nil {
			return err
		}
		if _, err := queries.Replace(ctx, tx, aggregates); err != nil {
			return err
		}
	}
	return nil
}

// inOrderOfPositions sorts events so that those of an aggregate stay in sequence, should their positions not be.
func inOrderOfPositions(events []projections.Raw) []projections.Raw {
	type placed struct {
		at    int64 // the highest position of the aggregate up to the event
		event projections.Raw
	}
	list := make([]placed, len(events))
	for i, e := range events {
		list[i] = placed{e.Position, e}
		if i > 0 && events[i-1].AggregateID == e.AggregateID {
			list[i].at = max(list[i].at, list[i-1].at)
		}
	}
	slices.SortStableFunc(list, func(a, b placed) int { return cmp.Compare(a.at, b.at) })
	sorted := make([]projections.Raw, len(list))
	for i, p := range list {
		sorted[i] = p.event
	}
	return sorted
}

// apply applies events as one batch.
func apply(ctx context.Context, tx pgx.Tx, run *projections.Run, aggregates []projections.ID, events []projections.Raw) error {
	if err := run.Begin(ctx, tx, aggregates); err != nil {
		return err
	}
	for i := range events {
		if err := run.Apply(&events[i]); err != nil {
			return err
		}
	}
	_, err := run.Flush()
	return err
}
