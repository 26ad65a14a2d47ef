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

// RetryParked replays a parked aggregate, whole and anew, in one transaction: then it is parked no more. It returns
// ErrNotParked if it is not, and ErrState unless the migration is built. An event that cannot be projected is an
// *projections.EventError; the aggregate stays parked, with that error.
//
// Its events are read after its row is locked, so after every pass that has left it out has ended; passes that come to it
// meanwhile wait. So nobody but us writes its ledger entries.
func (j *Job) RetryParked(ctx context.Context, aggregate string) error {
	id, err := j.aggregate(aggregate)
	if err != nil {
		return err
	}
	ids, t := []projections.ID{id}, j.catchUpTables()
	err = j.Retry(ctx, pg.PointRetry, func(tx pgx.Tx) error {
		cut, err := j.enter(ctx, tx, Built)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, j.sql(`
			select from %SCHEMA%.projector_parked_events where migration_id = $1 and aggregate_id = $2 for update`), j.Migration, id.String())
		switch {
		case err != nil:
			return fmt.Errorf("locking parked aggregate %s: %w", id, err)
		case tag.RowsAffected() == 0:
			return fmt.Errorf("%w: %s", ErrNotParked, aggregate)
		}
		events, err := j.readAll(ctx, tx, eventstore.Selection{Aggregates: ids})
		if err != nil {
			return err
		}
		above := j.entries(0)
		above.again = true
		for i := range events {
			if events[i].Position > cut {
				above.add(&events[i])
			}
		}
		if err := j.record(ctx, tx, above); err != nil {
			return err
		}
		if _, err := t.apply(ctx, tx, ids, events); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, j.sql("delete from %SCHEMA%.projector_parked_events where migration_id = $1 and aggregate_id = $2"),
			j.Migration, id.String())
		return err
	})
	if e, ok := errors.AsType[*projections.EventError](err); ok && ctx.Err() == nil {
		err = errors.Join(err, j.failsAgain(ctx, e))
	}
	return err
}

// failsAgain takes down how a parked aggregate fails now.
func (j *Job) failsAgain(ctx context.Context, e *projections.EventError) error {
	return j.Retry(ctx, pg.PointPark, func(tx pgx.Tx) error {
		if _, err := j.enter(ctx, tx, Built); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, j.sql(`
			update %SCHEMA%.projector_parked_events
			set position = $3, sequence = $4, event_type = $5, projector = $6, error = $7, parked_at = now()
			where migration_id = $1 and aggregate_id = $2`), j.Migration, e.AggregateID.String(), e.Position, e.Sequence, e.Type, e.Projector,
			pg.Storable(e.Err.Error()))
		return err
	})
}
