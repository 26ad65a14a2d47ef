package eventstore

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// EventsSQL is the statement that reads the selection, and its parameters.
func (r *Reader) EventsSQL(sel Selection) (string, []any) { return r.eventsSQL(sel) }

// ProbeSome is Probe with another number of events at most.
func (r *Reader) ProbeSome(ctx context.Context, tx pgx.Tx, most int64) (Probed, error) {
	return r.probe(ctx, tx, most)
}

// StatementsForCitus are issued if the event table is distributed.
var StatementsForCitus = []string{clusterHolders, clusterSizes}
