package replay

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// worker replays the batches that readers feed it, and then makes indexes and statistics.
type worker struct {
	job    *Job
	passes *passes
	meter  *meter
	run    *projections.Run
	// queries of a set that has both kinds of tables.
	queries *Queries
}

// replay takes batches until feeds is closed.
func (w *worker) replay(ctx context.Context, feeds <-chan *feed) error {
	t := trouble{}
	for {
		began := time.Now()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case f, open := <-feeds:
			w.meter.spent(&w.meter.times.wait, began)
			if !open {
				return nil
			}
			err := w.batch(ctx, f)
			close(f.done)
			if p, ok := errors.AsType[*poison](err); ok {
				w.job.Log.Warn().Err(p).Int("aggregates", len(p.events)).Msg("replaying the batch again without the aggregates that fail")
				err = w.job.parkBatch(ctx, f.batch, p)
			}
			w.passes.release(f.batch)
			_, unread := errors.AsType[*unread](err)
			switch {
			case err == nil || unread:
				t = trouble{}
			case !t.again(ctx, w.job, err):
				return err
			}
		}
	}
}

// batch claims and replays one batch. A crash anywhere in it leaves the batch pending and nothing of its rows.
func (w *worker) batch(ctx context.Context, f *feed) error {
	claimed := false
	defer func() {
		if !claimed {
			f.claim <- claim{}
		}
	}()
	var read, rows int64
	// The server may sort for long before it has the first event. We are not stuck while we wait for it.
	err := pg.InTx(ctx, session(w.job.DB, 0), pg.PointBatch, func(tx pgx.Tx) error {
		cut, ours, left, err := w.job.begin(ctx, tx, f.batch)
		if err != nil {
			return err
		}
		if !ours {
			w.passes.meet(f.batch)
			return errMet
		}
		if err := f.mark.here(ctx, tx); err != nil {
			return err
		}
		claimed = true
		f.claim <- claim{ours: true, cut: cut}
		if rows, err = w.rebuild(ctx, tx, f, cut, left, &read); err != nil {
			return f.batch.failed("replaying", w.job.Version, err)
		}
		return nil
	})
	switch {
	case errors.Is(err, errMet) || errors.Is(err, errMoved):
		return nil
	case err != nil:
		w.meter.read(-read)
		return err
	}
	w.meter.batchDone(f.batch, read, rows)
	return nil
}

// rebuild applies what the reader sends and records what is above the cut.
func (w *worker) rebuild(ctx context.Context, tx pgx.Tx, f *feed, cut int64, left leftOut, read *int64) (rows int64, err error) {
	if err := w.run.Begin(ctx, tx, nil); err != nil {
		return 0, err
	}
	above := w.job.entries(0)
	var failed poison
	for first := true; ; first = false {
		began := time.Now()
		c, open := <-f.chunks
		began = w.meter.spent(&w.meter.times.wait, began)
		if first {
			if _, err := tx.Exec(ctx, "select "+idleLimit(stuck)); err != nil {
				return 0, err
			}
		}
		if !open {
			break
		}
		for i := range c.events {
			e := &c.events[i]
			if e.Position > cut {
				above.add(e)
			}
			if left.has(e.AggregateID) {
				continue
			}
			if err := w.run.Apply(e); err != nil {
				if err := w.fail(ctx, tx, &failed, err); err != nil {
					return 0, err
				}
				left[e.AggregateID] = true
			}
		}
		n := int64(len(c.events))
		*read += n
		w.meter.read(n)
		w.meter.applied(time.Since(began), w.run.Spent())
		c.free()
	}
	if f.err != nil && f.mark != nil {
		return 0, &unread{f.err}
	}
	if f.err != nil {
		return 0, f.err
	}
	if failed.events != nil {
		return 0, &failed
	}
	began := time.Now()
	if err := w.job.record(ctx, tx, above); err != nil {
		return 0, err
	}
	if rows, err = w.run.Flush(); err != nil {
		return 0, err
	}
	// Last: their snapshot is then as new as the reader's, or newer, and they see all that is recorded.
	computed, err := w.queries.Fill(ctx, tx, eventstore.Selection{Range: f.batch.rng, Without: left.ids()})
	if err != nil {
		return 0, err
	}
	rows += computed
	err = w.job.finish(ctx, tx, f.batch, *read, rows)
	w.meter.spent(&w.meter.times.write, began)
	return rows, err
}

// fail goes on after an event that cannot be projected, if its aggregate is to be parked, to find all such aggregates of the
// batch: their rows are in it with all others, and a batch is rolled back as a whole.
func (w *worker) fail(ctx context.Context, tx pgx.Tx, failed *poison, err error) error {
	e, ok := w.job.poisonous(ctx, tx, err)
	if !ok {
		return err
	}
	failed.events = append(failed.events, e)
	if len(failed.events) > w.job.mostParked() {
		return failed
	}
	return w.run.Begin(ctx, tx, nil)
}
