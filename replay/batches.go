package replay

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
)

// Events per batch. Small stores get small batches, so that all workers have some; large stores get batches that are
// worth their transaction and whose rows fit in memory. 3 million events in 4,096 transactions took twice as long as in
// 16 to 64.
const (
	smallestBatch = 2_000
	largestBatch  = 50_000
	usualBatches  = 32
)

// BatchSize returns about how many events of a store of that size go into a batch.
func BatchSize(events int64) int64 {
	return min(max(events/usualBatches, smallestBatch), largestBatch)
}

// Prepare writes the batches of a migration: the parts of the event store, largest first, since the last one to finish
// decides when all are done; then the tables' indexes and statistics. It is part of the transaction that makes the tables.
func (j *Job) Prepare(ctx context.Context, tx pgx.Tx, parts []eventstore.Part, indexed, tables []string) error {
	insert := &pgx.Batch{}
	number := 0
	add := func(phase Phase, from, to, table *string, estimate int64) {
		number++
		insert.Queue(j.sql(`
			insert into %SCHEMA%.projector_batches (migration_id, number, phase, from_id, to_id, table_name, estimate)
			values ($1, $2, $3, $4, $5, $6, $7)`), j.Migration, number, int(phase), from, to, table, estimate)
	}
	for _, p := range parts {
		add(PhaseReplay, bound(p.From.String()), bound(p.To.String()), nil, p.Events)
	}
	for _, t := range indexed {
		add(PhaseIndex, nil, nil, &t, 0)
	}
	for _, t := range tables {
		add(PhaseAnalyze, nil, nil, &t, 0)
	}
	if err := tx.SendBatch(ctx, insert).Close(); err != nil {
		return fmt.Errorf("writing the batches: %w", err)
	}
	return nil
}

func bound(id string) *string {
	if id == "" {
		return nil
	}
	return &id
}

// batch is one that this worker has claimed.
type batch struct {
	number int
	phase  Phase
	rng    eventstore.Range
	table  string
}

func (b batch) String() string {
	switch {
	case b.phase == PhaseIndex:
		return "the indexes of " + b.table
	case b.phase == PhaseAnalyze:
		return "the statistics of " + b.table
	case b.rng == eventstore.Range{}:
		return "all events"
	}
	return "batch " + b.rng.Label()
}

// pending selects the batches that may be worked on: those of the first phase that is not complete. To claim is to lock;
// the lock's mode decides what a batch that somebody else holds means.
const pending = `
	select number, phase, coalesce(from_id, ''), coalesce(to_id, ''), coalesce(table_name, '')
	from %SCHEMA%.projector_batches b
	where migration_id = $1
	  and done_at is null
	  and phase = (select min(phase) from %SCHEMA%.projector_batches where migration_id = $1 and done_at is null)
	order by estimate desc, number
	limit 1
	for update of b `

// claim locks a batch for the rest of the transaction. It returns false if none is pending. If others hold all that are
// pending, it waits for one of them: it gets that batch at once if its holder dies, and tries again if its holder has
// finished it.
func (j *Job) claim(ctx context.Context, tx pgx.Tx) (b batch, ok bool, err error) {
	for {
		if b, ok, err = j.lockBatch(ctx, tx, "skip locked"); ok || err != nil {
			return b, ok, err
		}
		var left bool
		err = tx.QueryRow(ctx, j.sql("select exists (select from %SCHEMA%.projector_batches where migration_id = $1 and done_at is null)"),
			j.Migration).Scan(&left)
		if err != nil {
			return b, false, fmt.Errorf("looking for batches: %w", err)
		}
		if !left {
			return b, false, nil
		}
		if b, ok, err = j.lockBatch(ctx, tx, ""); ok || err != nil {
			return b, ok, err
		}
	}
}

func (j *Job) lockBatch(ctx context.Context, tx pgx.Tx, mode string) (b batch, ok bool, err error) {
	rows, err := tx.Query(ctx, j.sql(pending)+mode, j.Migration)
	if err != nil {
		return b, false, fmt.Errorf("claiming a batch: %w", err)
	}
	var from, to string
	_, err = pgx.ForEachRow(rows, []any{&b.number, &b.phase, &from, &to, &b.table}, func() (err error) {
		ok = true
		if b.rng.From, err = j.Source.ParseID(from); err != nil {
			return err
		}
		b.rng.To, err = j.Source.ParseID(to)
		return err
	})
	if err != nil {
		return b, false, fmt.Errorf("claiming a batch: %w", err)
	}
	return b, ok, nil
}

// finish marks the batch as done, in the transaction that holds its rows.
func (j *Job) finish(ctx context.Context, tx pgx.Tx, b batch, events, rows int64) error {
	_, err := tx.Exec(ctx, j.sql(`
		update %SCHEMA%.projector_batches
		set events = $3, rows = $4, started_at = now(), done_at = clock_timestamp(),
			worker = pg_catalog.format('%s (pid %s)', nullif(current_setting('application_name'), ''), pg_backend_pid())
		where migration_id = $1 and number = $2`), j.Migration, b.number, events, rows)
	if err != nil {
		return fmt.Errorf("marking %s as done: %w", b, err)
	}
	return nil
}
