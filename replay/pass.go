package replay

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
)

// passes shares the batches out among the readers of this process. A pass is a run of neighboring batches that one
// statement reads in order. Nothing of it is in the database: what makes a batch replayed once is that a worker claims it.
// Of other processes a pass learns by meeting a batch that they have.
type passes struct {
	job     *Job
	count   int   // of all passes, if this process made them all
	size    int64 // events in a pass, about
	sorting eventstore.Sorting

	mu       sync.Mutex
	reserved map[int]bool  // by batch: in a pass of ours, or with a worker of ours
	taken    map[int]bool  // by batch: another process had it when we asked
	changed  chan struct{} // closed when a reservation ends
}

func (j *Job) newPasses(ctx context.Context, left int64) (*passes, error) {
	db, _ := j.events()
	layout, err := j.Source.Layout(ctx, db)
	count := Passes(layout, j.Parallelism())
	return &passes{
		job: j, count: count, size: max(1, left/int64(count)), sorting: j.Source.Sorting(layout, count),
		reserved: map[int]bool{}, taken: map[int]bool{}, changed: make(chan struct{}),
	}, err
}

// usualPass is about how many events a statement reads where their number does not matter. A statement that runs for
// hours keeps vacuum from cleaning up, and whoever alters the event table from getting its lock.
const usualPass = 750_000

// mostReads is how often the rebuild may read an event table that does not stay in memory.
const mostReads = 2

// Passes returns in how many passes so many workers of one process read the event table. A pass is one statement, which
// reads a range of aggregates in order. Of a table that stays in memory, or lies in the order of ids, passes may be as
// short as is pleasant. A larger one, with random ids, is read by few statements, since each reads most of its pages; it
// then sorts its share of the table. So is one whose index does not know the order of ids, which is that of their bytes: even
// in memory, each statement then looks at every event. Two for each worker are worth it: what is in temporary files at
// once is half as much.
func Passes(l eventstore.Layout, workers int) int {
	round := int64(workers) * usualPass
	each := max(1, (l.Rows+round/2)/round)
	if l.Scanned() {
		each = min(each, 2)
	}
	count := workers * int(each)
	for count > 1 && l.TimesRead(count) > mostReads {
		count-- // never below 2 for its own sake: two statements read the table at most twice
	}
	return count
}

// next returns a run of batches to read, none if all batches of the store are done. Until then it waits: for batches that
// this process has in hand, which may fail, and then for those that others have, who may die.
func (p *passes) next(ctx context.Context) ([]batch, error) {
	for {
		pending, err := p.job.pending(ctx)
		if err != nil || len(pending) == 0 {
			return nil, err
		}
		p.mu.Lock()
		run, changed, ours := p.choose(pending), p.changed, len(p.reserved) > 0
		for _, b := range run {
			p.reserved[b.number] = true
		}
		p.mu.Unlock()
		switch {
		case run != nil:
			return run, nil
		case ours:
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		default:
			if err := p.job.await(ctx, pending[0]); err != nil {
				return nil, err
			}
			p.mu.Lock()
			delete(p.taken, pending[0].number)
			p.mu.Unlock()
		}
	}
}

// choose picks from the batches that nobody is known to work on, which come in order. A batch that is a pass by itself goes
// first, since the last one to finish decides when all are done. Else it is the longest run of neighbors; if somebody works
// at its head, and so towards us, we begin in its middle.
func (p *passes) choose(pending []batch) []batch {
	var best, run []batch
	var most, events int64
	for _, b := range pending {
		if p.reserved[b.number] || p.taken[b.number] {
			run, events = nil, 0
			continue
		}
		if len(run) > 0 && run[len(run)-1].number != b.number-1 {
			run, events = nil, 0
		}
		if b.estimate >= p.size && b.estimate > most {
			best, most = []batch{b}, b.estimate
		}
		run, events = append(run, b), events+b.estimate
		if events > most && (len(best) != 1 || best[0].estimate < p.size) {
			best, most = run, events
		}
	}
	if len(best) == 0 {
		return nil
	}
	if p.taken[best[0].number-1] {
		best = best[len(best)/2:]
	}
	var sum int64
	for i, b := range best {
		if sum += b.estimate; sum >= p.size {
			return best[:i+1]
		}
	}
	return best
}

// shorten has passes be half as long as one that was canceled, and at least a batch.
func (p *passes) shorten(run []batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var events int64
	for _, b := range run {
		events += b.estimate
	}
	p.size = min(p.size, max(1, events/2))
}

// meet notes that another process has the batch, or has had it.
func (p *passes) meet(b batch) {
	p.mu.Lock()
	p.taken[b.number] = true
	p.mu.Unlock()
	p.release(b)
}

// release ends the reservation of batches: they are done, or pending again.
func (p *passes) release(batches ...batch) {
	if len(batches) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range batches {
		delete(p.reserved, b.number)
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// pending lists the batches of the store that are not done, in the order of ids.
func (j *Job) pending(ctx context.Context) (list []batch, err error) {
	err = j.trying(ctx, func() (err error) {
		list, err = pg.Collect(ctx, j.DB, j.batch, j.sql(`
			select `+batchColumns+`
			from %SCHEMA%.projector_batches b
			where migration_id = $1 and phase = $2 and done_at is null
			order by number`), pg.Once, j.Migration, int(PhaseReplay))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for batches: %w", err)
	}
	return list, nil
}

// await returns when nobody works on the batch any more.
func (j *Job) await(ctx context.Context, b batch) error {
	return j.Retry(ctx, pg.PointList, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, j.sql("select "+claiming+" from %SCHEMA%.projector_batches where migration_id = $1 and number = $4 for update"),
			j.Migration, RunLock, j.Ledger.Run, b.number)
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", b, err)
		}
		return nil
	})
}
