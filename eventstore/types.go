package eventstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// TypeCount is a type of events and how often it occurs.
type TypeCount struct {
	Type   string
	Events int64
}

// Types lists the types of events that occur in a sample of the store, with about how many events of each there are; exact
// says that it has looked at all of them, as it does if the store is small, or if all is asked for, which reads the whole table.
func (r *Reader) Types(ctx context.Context, q pg.Querier, all bool) (list []TypeCount, exact bool, err error) {
	sample, total := "", int64(0)
	if !all {
		if total, err = r.Estimate(ctx, q); err != nil {
			return nil, false, err
		}
		sample = r.sample(total)
	}
	where, args := r.where(Selection{})
	sql := fmt.Sprintf("select %s::text, count(*) from %s where %s group by 1 order by 1", r.typ, r.from(sample), where)
	list, err = pg.Collect(ctx, q, pgx.RowToStructByPos[TypeCount], sql, append([]any{pg.Once}, args...)...)
	if err != nil {
		return nil, false, fmt.Errorf("listing event types: %w", err)
	}
	if sample == "" {
		return list, true, nil
	}
	var seen int64
	for _, t := range list {
		seen += t.Events
	}
	for i := range list {
		list[i].Events = max(1, int64(float64(list[i].Events)/float64(seen)*float64(total)))
	}
	return list, false, nil
}
