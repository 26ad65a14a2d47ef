package eventstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// TypeCount is a type of events and how often it occurs in a sample.
type TypeCount struct {
	Type   string
	Events int64
}

// Types lists the types of events that occur in a sample of the store, or in all of a small one.
func (r *Reader) Types(ctx context.Context, q pg.Querier) ([]TypeCount, error) {
	total, err := r.Estimate(ctx, q)
	if err != nil {
		return nil, err
	}
	where, args := r.where(Selection{})
	rows, err := q.Query(ctx, fmt.Sprintf("select %s::text, count(*) from %s where %s group by 1 order by 1",
		r.typ, r.from(r.sample(total)), where), args...)
	if err != nil {
		return nil, fmt.Errorf("listing event types: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[TypeCount])
	if err != nil {
		return nil, fmt.Errorf("listing event types: %w", err)
	}
	return list, nil
}
