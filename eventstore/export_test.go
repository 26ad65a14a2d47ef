package eventstore

import (
	"context"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
)

// EventsSQL is the statement that reads the selection, and its parameters.
func (r *Reader) EventsSQL(sel Selection) (string, []any) { return r.eventsSQL(sel) }

// ProbeSome is Probe with another number of events at most.
func (r *Reader) ProbeSome(ctx context.Context, tx pgx.Tx, most int64) (Probed, error) {
	return r.probe(ctx, tx, Sorting{}, most)
}

// StatementsForCitus are issued if the event table is distributed.
var StatementsForCitus = []string{clusterHolders, clusterSizes}

// Fetched is how many rows a Scan fetches at a time.
const Fetched = fetched

// Ahead is how many fetches a Scan asks for before the first has come, by how long a round trip takes.
func Ahead(roundTrip time.Duration) int { return ahead(roundTrip) }

// ScanAhead is Scan, as if the server were so far away that it asks for so many fetches ahead.
func (r *Reader) ScanAhead(ctx context.Context, tx pgx.Tx, sel Selection, fetches int) iter.Seq2[*Event, error] {
	return r.scanAhead(ctx, tx, sel, func(time.Duration) int { return fetches })
}
