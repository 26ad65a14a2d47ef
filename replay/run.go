package replay

import (
	"context"
	"fmt"

	"github.com/alitto/pond/v2"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// Run claims and works through the batches until none is left, whoever else does the same. When it returns nil, all
// batches are done, those of other processes included. The first error ends this process's work; batches that it had in
// flight are rolled back and pending again, and what is done stays done.
func (j *Job) Run(ctx context.Context) (Progress, error) {
	m := newMeter(j)
	if err := m.look(ctx, 0); err != nil {
		return Progress{}, err
	}
	stop := m.start(ctx)
	err := j.parallel(ctx, func(ctx context.Context) error { return j.worker(ctx, m) })
	return stop(), err
}

// parallel runs as many loops as the job has workers. The first that fails ends the others' context.
func (j *Job) parallel(ctx context.Context, loop func(ctx context.Context) error) error {
	pool := pond.NewPool(j.Parallelism())
	defer pool.StopAndWait()
	group := pool.NewGroupContext(ctx)
	for range j.Parallelism() {
		group.SubmitErr(func() error { return loop(group.Context()) })
	}
	err := group.Wait()
	if ctx.Err() != nil && err == nil {
		err = context.Cause(ctx)
	}
	return err
}

func (j *Job) worker(ctx context.Context, m *meter) error {
	run := j.Projections.Rebuild()
	// A unique index can fail because batches read at different times: the aggregate that took a value was read after the
	// one that has freed it since. What the ledger lacks, applied in one snapshot before the index is made, brings all
	// aggregates to the same moment; if it still fails, the projector writes the value twice.
	uneven := false
	again := func(err error) bool {
		_, _, unique := pg.UniqueViolation(err)
		first := unique && !uneven
		uneven = uneven || unique
		return first || isRecorded(err)
	}
	for {
		var b batch
		var ok bool
		var read int64
		err := j.attempt(ctx, pg.PointBatch, again, func(tx pgx.Tx) (err error) {
			m.inFlight.Add(-read) // of an attempt that failed
			read = 0
			cut, err := j.enter(ctx, tx, Building, Built) // built: by another process, which found all batches done
			if err != nil {
				return err
			}
			if b, ok, err = j.claim(ctx, tx); err != nil || !ok {
				return err
			}
			if uneven && b.phase == PhaseIndex {
				if _, err := j.apply(ctx, tx, j.Projections.CatchUp(), j.lacks(cut, nil)); err != nil {
					return fmt.Errorf("catching up before %s of version %d are made: %w", b, j.Version, err)
				}
			}
			count := func() { read++; m.inFlight.Add(1) }
			if err := j.work(ctx, tx, b, cut, run, count); err != nil {
				doing := "replaying"
				if b.phase != PhaseReplay {
					doing = "making"
				}
				return fmt.Errorf("%s %s of version %d: %w", doing, b, j.Version, err)
			}
			return nil
		})
		if err != nil || !ok {
			return err
		}
		j.Log.Debug().Stringer("batch", b).Int64("events", read).Msg("batch done")
		if err := m.look(ctx, read); err != nil { // the batch is done all the same
			j.Log.Debug().Err(err).Msg("cannot tell the progress")
		}
	}
}

// work does what the claimed batch asks for. A crash anywhere in it leaves the batch pending and nothing of its rows.
func (j *Job) work(ctx context.Context, tx pgx.Tx, b batch, cut int64, run *projections.Run, count func()) error {
	var events, rows int64
	var err error
	switch b.phase {
	case PhaseReplay:
		events, rows, err = j.rebuild(ctx, tx, b, cut, run, count)
	case PhaseIndex:
		err = j.Index(ctx, tx, b.table)
	case PhaseAnalyze:
		err = j.Analyze(ctx, tx, b.table)
	}
	if err != nil {
		return err
	}
	return j.finish(ctx, tx, b, events, rows)
}

// rebuild reads all committed events of the batch's aggregates in one snapshot and records what it read above the cut. At
// or below the cut, types that no projector handles are not read: they are not recorded either.
func (j *Job) rebuild(ctx context.Context, tx pgx.Tx, b batch, cut int64, run *projections.Run, count func()) (events, rows int64, err error) {
	if err := run.Begin(ctx, tx, nil); err != nil {
		return 0, 0, err
	}
	var above []int64
	sel := eventstore.Selection{Range: b.rng, Types: j.Projections.Types(), AllAbove: cut}
	for e, err := range j.Source.Events(ctx, tx, sel) {
		if err != nil {
			return 0, 0, err
		}
		if e.Position > cut {
			above = append(above, e.Position)
		}
		if err := run.Apply(e); err != nil {
			return 0, 0, err
		}
		events++
		count()
	}
	if err := j.record(ctx, tx, above); err != nil {
		return 0, 0, err
	}
	rows, err = run.Flush()
	return events, rows, err
}
