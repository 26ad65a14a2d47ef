package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// Events per batch: what a crash costs at most, per worker. Small stores get small batches, so that all workers have some;
// large stores get batches that are worth their transaction, and not so many that looking them through takes time.
const (
	smallestBatch = 2_000
	usualBatch    = 50_000
	usualBatches  = 32
	mostBatches   = 2_000
	largestMixed  = 2_000_000
)

// BatchSize returns about how many events of a store of that size go into a batch.
//
// Handlers get the events of many batches from one statement, and a batch of SQL tables is a statement by itself: so there
// are no more of these than passes. Where the set has both kinds of tables, the positions of a batch may all be in memory.
func BatchSize(set *projections.Set, l eventstore.Layout, events int64, workers int) int64 {
	usual := max(min(max(events/usualBatches, smallestBatch), usualBatch), events/mostBatches)
	if len(set.SQLTables()) == 0 {
		return usual
	}
	pass := max(smallestBatch, events/int64(Passes(l, workers)))
	if !set.OnlySQL() {
		pass = min(pass, max(usual, largestMixed))
	}
	return pass
}

// Prepare writes the batches of a migration: the parts of the event store in the order of ids; then the tables that are
// merged, the tables' indexes and statistics. If there are ordered projectors, it writes their lane. It is part of the transaction
// that makes the tables.
func (j *Job) Prepare(ctx context.Context, tx pgx.Tx, parts []eventstore.Part, merged, indexed, tables []string) error {
	var phases, estimates []int64
	var from, to, names []string
	add := func(phase Phase, lower, upper, table string, estimate int64) {
		phases, estimates = append(phases, int64(phase)), append(estimates, estimate)
		from, to, names = append(from, lower), append(to, upper), append(names, table)
	}
	for _, p := range parts {
		add(PhaseReplay, p.From.String(), p.To.String(), "", p.Events)
	}
	for _, t := range merged {
		add(PhaseMerge, "", "", t, 0)
	}
	for _, t := range indexed {
		add(PhaseIndex, "", "", t, 0)
	}
	for _, t := range tables {
		add(PhaseAnalyze, "", "", t, 0)
	}
	_, err := tx.Exec(ctx, j.sql(`
		insert into %SCHEMA%.projector_batches (migration_id, number, phase, from_id, to_id, table_name, estimate)
		select $1::bigint, number, phase, nullif(from_id, ''), nullif(to_id, ''), nullif(table_name, ''), estimate
		from rows from (pg_catalog.unnest($2::bigint[]), pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::text[]), pg_catalog.unnest($5::text[]),
			pg_catalog.unnest($6::bigint[])) with ordinality as b (phase, from_id, to_id, table_name, estimate, number)`),
		pg.Once, j.Migration, phases, from, to, names, estimates)
	if err == nil && j.hasLane() {
		_, err = tx.Exec(ctx, j.sql("insert into %SCHEMA%.projector_lanes (migration_id) values ($1)"), pg.Once, j.Migration)
	}
	if err != nil {
		return fmt.Errorf("writing the batches: %w", err)
	}
	return nil
}

// batch is one that this worker has claimed.
type batch struct {
	number int
	phase  Phase
	rng    eventstore.Range
	table  string

	estimate int64 // events, at least 1
}

func (b batch) String() string {
	switch {
	case b.phase == PhaseMerge:
		return "the rows of " + b.table
	case b.phase == PhaseIndex:
		return "the indexes of " + b.table
	case b.phase == PhaseAnalyze:
		return "the statistics of " + b.table
	case b.rng == eventstore.Range{}:
		return "all events"
	}
	return "batch " + b.rng.Label()
}

// failed says what was being done to the batch when it failed.
func (b batch) failed(doing string, version int, err error) error {
	return &BatchError{b.number, fmt.Sprintf("%s %s of version %d", doing, b, version), err}
}

// A claim is a row lock that lasts as long as the transaction which does the work: it ends with it, or with its
// connection. Only a batch that is not done can be claimed.
const batchColumns = "number, phase, coalesce(from_id, ''), coalesce(to_id, ''), coalesce(table_name, ''), greatest(estimate, 1)"

func (j *Job) batch(row pgx.CollectableRow) (b batch, err error) {
	var from, to string
	if err := row.Scan(&b.number, &b.phase, &from, &to, &b.table, &b.estimate); err != nil {
		return b, err
	}
	if b.rng.From, err = j.Source.ParseID(from); err != nil {
		return b, err
	}
	b.rng.To, err = j.Source.ParseID(to)
	return b, err
}

// claim locks the batch for the rest of the transaction. It returns false if somebody else has it, or if it is done.
func (j *Job) claim(ctx context.Context, tx pgx.Tx, b batch) (ours bool, err error) {
	rows, err := tx.Query(ctx, j.claimQuery(), pg.Once, j.Migration, b.number)
	if err != nil {
		return false, fmt.Errorf("claiming %s: %w", b, err)
	}
	return b.claimed(rows)
}

// claimQuery yields a row if it can lock the batch.
func (j *Job) claimQuery() string {
	return j.sql(`
		select from %SCHEMA%.projector_batches
		where migration_id = $1 and number = $2 and done_at is null
		for update skip locked`)
}

func (b batch) claimed(rows pgx.Rows) (ours bool, err error) {
	rows.Close()
	if err := rows.Err(); err != nil {
		return false, fmt.Errorf("claiming %s: %w", b, err)
	}
	return rows.CommandTag().RowsAffected() == 1, nil
}

// begin enters, claims the batch and reads which aggregates are left out, all in one round trip: a reader waits for it. If somebody
// else has the batch, or it is done, it is not ours.
func (j *Job) begin(ctx context.Context, tx pgx.Tx, b batch) (cut int64, ours bool, left leftOut, err error) {
	all := &pgx.Batch{}
	all.Queue(j.lockQuery("for key share"), j.Migration, RunLock, j.Ledger.Run).QueryRow(func(row pgx.Row) (err error) {
		cut, err = j.locked(row, Building, Built) // built: by another process, which found all batches done
		return err
	})
	all.Queue(j.claimQuery(), j.Migration, b.number).Query(func(rows pgx.Rows) (err error) {
		ours, err = b.claimed(rows)
		return err
	})
	all.Queue(j.leftOutQuery(""), j.Migration).Query(func(rows pgx.Rows) (err error) {
		left, err = j.collectLeftOut(rows)
		return err
	})
	err = tx.SendBatch(ctx, all).Close()
	return cut, ours, left, err
}

// claimNext locks a batch of the first phase that is not complete, for the rest of the transaction. It returns false if
// none is pending. If others hold all that are pending, it waits for one of them: it gets that batch at once if its holder
// dies, and looks for another one if its holder has finished it.
func (j *Job) claimNext(ctx context.Context, tx pgx.Tx) (b batch, ok bool, err error) {
	for {
		if b, ok, err = j.lockNext(ctx, tx, "skip locked"); ok || err != nil {
			return b, ok, err
		}
		var left bool
		err = tx.QueryRow(ctx, j.sql("select exists (select from %SCHEMA%.projector_batches where migration_id = $1 and done_at is null)"),
			pg.Once, j.Migration).Scan(&left)
		if err != nil {
			return b, false, fmt.Errorf("looking for batches: %w", err)
		}
		if !left {
			return b, false, nil
		}
		if b, ok, err = j.lockNext(ctx, tx, ""); ok || err != nil {
			return b, ok, err
		}
	}
}

// lockNext claims; mode decides what a batch that somebody else holds means.
func (j *Job) lockNext(ctx context.Context, tx pgx.Tx, mode string) (b batch, ok bool, err error) {
	rows, err := tx.Query(ctx, j.sql(`
		select `+batchColumns+`
		from %SCHEMA%.projector_batches b
		where migration_id = $1
		  and done_at is null
		  and phase = (select min(phase) from %SCHEMA%.projector_batches where migration_id = $1 and done_at is null)
		order by number
		limit 1
		for update of b `)+mode, pg.Once, j.Migration)
	if err == nil {
		b, err = pgx.CollectExactlyOneRow(rows, j.batch)
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return b, false, nil
	case err != nil:
		return b, false, fmt.Errorf("claiming a batch: %w", err)
	}
	return b, true, nil
}

// finish marks the batch as done, in the transaction that holds its rows.
func (j *Job) finish(ctx context.Context, tx pgx.Tx, b batch, events, rows int64) error {
	_, err := tx.Exec(ctx, j.sql(`
		update %SCHEMA%.projector_batches
		set events = $3, rows = $4, started_at = now(), done_at = clock_timestamp(),
			worker = `+thisSession+`
		where migration_id = $1 and number = $2`), pg.Once, j.Migration, b.number, events, rows, j.Host)
	if err != nil {
		return fmt.Errorf("marking %s as done: %w", b, err)
	}
	return nil
}
