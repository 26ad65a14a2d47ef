package eventstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Probed is how long it took to read some events.
type Probed struct {
	Events int64
	Took   time.Duration
}

// probed is how many events Probe reads: enough that sorting them takes temporary files, as in a rebuild, and some 0.3 s.
const probed = 100_000

// Probe reads a sample of the store, of at most 100,000 events, and sorts it as a rebuild does with all. It does so three times, and tells
// how long the quicker of the last two took: they find in memory what the first one had to read from disk, so that it is what the
// server computes.
func (r *Reader) Probe(ctx context.Context, tx pgx.Tx, sorting Sorting) (Probed, error) {
	return r.probe(ctx, tx, sorting, probed)
}

func (r *Reader) probe(ctx context.Context, tx pgx.Tx, sorting Sorting, most int64) (p Probed, err error) {
	total, err := r.Estimate(ctx, tx)
	if err != nil {
		return p, err
	}
	// The same blocks each time. If the seed is one of those that yield a tenth, that many are enough.
	sample := ""
	if total > 4*most && !r.isView {
		sample = fmt.Sprintf(" tablesample system (%g) repeatable (1)", 100*2*float64(most)/float64(total))
	}
	where, args := r.where(Selection{})
	sql := fmt.Sprintf(`select *
from (select %s, %s as projector_id, %s as projector_sequence from %s where %s limit %d) e
order by projector_id%s, projector_sequence`, r.row.columns, r.id, r.sequence, r.from(sample), where, most, r.collate)
	for round := range 3 {
		began := time.Now()
		p.Events = 0
		for _, err := range r.stream(ctx, tx, sql, args, sorting, ahead, &cursor{}) {
			if err != nil {
				return p, err
			}
			p.Events++
		}
		if _, err := tx.Exec(ctx, "close projector_events"); err != nil {
			return p, fmt.Errorf("reading events: %w", err)
		}
		if took := time.Since(began); round < 2 || took < p.Took {
			p.Took = took
		}
	}
	return p, nil
}
