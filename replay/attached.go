package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// tablesNow lists the tables that hold the events.
func (j *Job) tablesNow(ctx context.Context, tx pgx.Tx) (tables []uint32, err error) {
	err = j.eventsTx(ctx, tx, func(events pgx.Tx) error {
		tables, err = j.Source.Tables(ctx, events)
		return err
	})
	return tables, err
}

// checkAttached refuses to go on if one of the tables that hold the events now was not there when the cut was settled, and has events at or
// below it: a partition was attached with them.
func (j *Job) checkAttached(ctx context.Context, tx pgx.Tx, now []uint32, cut int64) error {
	var known []uint32
	err := tx.QueryRow(ctx, j.sql("select event_tables from %SCHEMA%.projector_migrations where id = $1"), j.Migration).Scan(&known)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return j.gone()
	case err != nil:
		return fmt.Errorf("reading which tables held the events: %w", err)
	}
	attached := slices.DeleteFunc(slices.Clone(now), func(table uint32) bool { return slices.Contains(known, table) })
	if cut == 0 || len(attached) == 0 {
		return nil
	}
	return j.eventsTx(ctx, tx, func(events pgx.Tx) error {
		name, err := j.Source.Attached(ctx, events, attached, cut)
		if err == nil && name != "" {
			err = fmt.Errorf("%w: table %s has come to the event table since all events up to position %d were replayed, and has some of these, "+
				"which the new tables may lack; take it away again (alter table … detach partition), or type: migrate abort", ErrAttached, name, cut)
		}
		return err
	})
}
