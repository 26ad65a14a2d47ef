package replay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/alitto/pond/v2"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Run claims and works through the batches until none is left, and brings the lane to the cut, whoever else does the same. When
// it returns nil, all batches are done, those of other processes included, and the lane is there. The first error ends this process's work; batches that it had in
// flight are rolled back and pending again, and what is done stays done.
func (j *Job) Run(ctx context.Context) (Progress, error) {
	m := newMeter(j)
	if err := m.look(ctx); err != nil {
		return Progress{}, err
	}
	stop := m.start(ctx)
	err := errPending
	for errors.Is(err, errPending) {
		if err = j.fill(ctx, m); err == nil {
			err = j.parallel(ctx, func(ctx context.Context) error { return j.finishTables(ctx, m) })
		}
	}
	return stop(), err
}

// errPending is that a batch of the store is pending after all were done: a server that has taken over lacks its commit.
var errPending = errors.New("a batch that was done is pending again")

// fill has the batches of the store and the lane worked on side by side.
func (j *Job) fill(ctx context.Context, m *meter) error {
	pool := pond.NewPool(2)
	defer pool.StopAndWait()
	group := pool.NewGroupContext(ctx)
	if j.HasBatches() {
		group.SubmitErr(func() error { return j.replay(group.Context(), m) })
	}
	if j.hasLane() {
		group.SubmitErr(func() error {
			return j.unmoved(func() error {
				_, err := j.advanceLane(group.Context(), 0, nil, m.laneMoved, Building, Built)
				return err
			})
		})
	}
	return wait(ctx, group)
}

// replay has readers read the events and workers apply them, each on connections of its own: while a worker stores the rows
// of one batch, the server already reads and sorts what comes next.
func (j *Job) replay(ctx context.Context, m *meter) error {
	if j.Projections.Parallel().OnlySQL() {
		return j.compute(ctx, m)
	}
	if err := j.warnUnsettled(ctx); err != nil {
		return err
	}
	passes, err := j.newPasses(ctx, m.left())
	if err != nil {
		return err
	}
	readers, workers, err := j.share(passes.count)
	if err != nil {
		return err
	}
	set, feeds := j.Projections.Parallel(), make(chan *feed)
	reading := atomic.Int32{}
	reading.Store(int32(readers))
	pool := pond.NewPool(readers + workers)
	defer pool.StopAndWait()
	group := pool.NewGroupContext(ctx)
	for range readers {
		group.SubmitErr(func() error {
			r := &reader{job: j, passes: passes, feeds: feeds, meter: m, types: types{}}
			defer func() {
				if reading.Add(-1) == 0 {
					close(feeds)
				}
			}()
			return r.run(group.Context())
		})
	}
	for range workers {
		group.SubmitErr(func() error {
			w := &worker{job: j, passes: passes, meter: m, run: set.RebuildPartial(), queries: NewQueries(set, j.Source)}
			return w.replay(group.Context(), feeds)
		})
	}
	return wait(ctx, group)
}

// share says how many readers, of those that there is work for, and workers the connections of the pool are enough for. Each
// holds one at a time at most, so with one for each they cannot wait for each other.
//
// Where the events are in another database, there may be a network on the way to the tables: while a worker waits for its last
// statements and its commit, another one takes the reader's next batch. So there are two for each.
func (j *Job) share(passes int) (readers, workers int, err error) {
	connections := int(j.DB.Config().MaxConns)
	if connections < 2 {
		return 0, 0, fmt.Errorf("a replay reads on one connection and stores on another, and the pool has %d", connections)
	}
	db, elsewhere := j.events()
	if !elsewhere {
		workers = min(j.Parallelism(), connections-1)
		return min(passes, workers, connections-workers), workers, nil
	}
	// A worker that reads a group anew must not wait for the reader, which waits for a worker.
	reading := int(db.Config().MaxConns)
	if reading < 2 {
		return 0, 0, fmt.Errorf("a replay needs 2 connections to the database of the events, and that pool has %d", reading)
	}
	return min(passes, j.Parallelism(), reading-1), min(2*j.Parallelism(), connections-1), nil
}

// parallel runs as many loops as the job has workers. The first that fails ends the others' context.
func (j *Job) parallel(ctx context.Context, loop func(ctx context.Context) error) error {
	pool := pond.NewPool(j.Parallelism())
	defer pool.StopAndWait()
	group := pool.NewGroupContext(ctx)
	for range j.Parallelism() {
		group.SubmitErr(func() error { return loop(group.Context()) })
	}
	return wait(ctx, group)
}

func wait(ctx context.Context, group pond.TaskGroup) error {
	err := group.Wait()
	if ctx.Err() != nil && err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// finishTables merges partial rows, and makes indexes and statistics: the batches that come after those of the store.
func (j *Job) finishTables(ctx context.Context, m *meter) error {
	// A unique index can fail because batches read at different times: the aggregate that took a value was read after the
	// one that has freed it since. What the ledger lacks, applied in one snapshot before the index is made, brings all
	// aggregates to the same moment; if it still fails, the projector writes the value twice.
	uneven := false
	t := j.catchUpTables()
	for {
		if err := j.Throttle.wait(ctx); err != nil {
			return err
		}
		var b batch
		var ok bool
		var rows int64
		finish := func(tx pgx.Tx) error {
			cut, err := j.enter(ctx, tx, Building, Built) // built: by another process, which found all batches done
			if err != nil {
				return err
			}
			if b, ok, err = j.claimNext(ctx, tx); err != nil || !ok {
				return err
			}
			if b.phase == PhaseReplay {
				return errPending
			}
			if j.Throttle.held() { // since we began to wait for it
				return errHeld
			}
			if uneven && b.phase == PhaseIndex {
				if _, err := j.apply(ctx, tx, t, cut, nil); err != nil {
					return fmt.Errorf("catching up before %s of version %d are made: %w", b, j.Version, err)
				}
			}
			if rows, err = j.finishTable(ctx, tx, b, m); err != nil {
				return b.failed("making", j.Version, err)
			}
			return nil
		}
		err := j.parking(ctx, t, func() error { return j.Retry(ctx, pg.PointBatch, finish) })
		switch _, _, unique := pg.UniqueViolation(err); {
		case errors.Is(err, errHeld):
			continue
		case unique && !uneven:
			uneven = true
			continue
		case unique:
			return j.Projections.Shared(ctx, j.DB, err)
		case err != nil || !ok:
			return err
		}
		uneven = false
		m.batchDone(b, 0, rows)
	}
}

func (j *Job) finishTable(ctx context.Context, tx pgx.Tx, b batch, m *meter) (rows int64, err error) {
	began := time.Now()
	defer func() { m.spent(&m.times.index, began) }()
	switch b.phase {
	case PhaseMerge:
		rows, err = j.Merge(ctx, tx, b.table)
	case PhaseIndex:
		err = j.Index(ctx, tx, b.table)
	default:
		err = j.Analyze(ctx, tx, b.table)
	}
	if err != nil {
		return 0, err
	}
	return rows, j.finish(ctx, tx, b, 0, rows)
}
