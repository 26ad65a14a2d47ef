package viewschema

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// MigrateOffline is the cutover. It catches up until little is left, and then, in one transaction with writers held off,
// applies the last events, renames the tables, runs the in-place alters and records the version. Readers and writers wait
// for that transaction, and see the old tables before and the new ones after. Any failure leaves the old version live and
// the new one built.
//
// Locks are asked for with a short time-out and given back if one cannot be had, so that nobody queues behind the
// cutover for long; it is tried again for Options.LockWait. Writers wait at most Options.PauseBudget for a try that fails.
//
// What it makes anew without looking at rows, so that nobody waits for that, it completes after the commit: foreign keys of other tables are
// validated. What cannot be is in Result.Remaining; the new version is live all the same.
//
// Errors: ErrState (not built), ErrLockWait, ErrRefused (something depends on a live table, aggregates are parked, the tail does
// not get shorter, or we may not lock the events), and those of MigrateOnline.
func (s *Schema) MigrateOffline(ctx context.Context) (Result, error) {
	began := time.Now()
	current, err := s.CurrentVersion(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := s.checkDirection(current); err != nil {
		return Result{}, err
	}
	if current == s.Target() {
		return Result{From: current, To: current, State: replay.Active, Nothing: true}, nil
	}
	if err := s.ensureInit(ctx, false); err != nil {
		return Result{}, err
	}
	m, plan, err := s.builtMigration(ctx)
	if err != nil {
		return Result{}, err
	}
	return s.record(ctx, commandOffline, m.from, m.to, func(ctx context.Context, r *run) (Result, error) {
		result, err := r.cutOver(ctx, m, plan)
		result.Elapsed = time.Since(began)
		return result, err
	})
}

// cutOver puts the tables of a migration that is built in the place of the live ones.
func (r *run) cutOver(ctx context.Context, m *migration, plan *Plan) (Result, error) {
	r.migration.Store(m.Migration)
	source, err := r.source(ctx)
	if err != nil {
		return Result{}, err
	}
	job := r.job(m, source, plan)
	parked, err := r.parkedNow(ctx, job)
	if err != nil {
		return Result{}, err
	}
	err = pg.InTx(ctx, r.db, pg.PointList, func(tx pgx.Tx) error {
		_, err := r.checkCutover(ctx, tx, plan)
		return errors.Join(err, r.refuseParked(m, parked))
	})
	if err != nil {
		return Result{}, err
	}
	if err := r.warnOfLacking(ctx, plan); err != nil {
		return Result{}, err
	}
	if t, err := r.readThrottle(ctx, r.db, m.Migration, ""); err == nil && t != nil && t.Paused {
		r.opts.Log.Warn().Str("by", t.ChangedBy).Msg("the migration is paused, to which a cutover does not keep")
	}
	job.OnError = replay.Stop
	result := Result{From: m.from, To: m.to, State: replay.Active, Parked: parked}
	c := &cutover{Schema: r.Schema, job: job, m: m, plan: plan, result: &result, rate: usualRate, behind: true}
	err = c.run(ctx)
	if err != nil && !errors.Is(err, ErrLockLost) { // with that, the version is live
		return Result{}, err
	}
	r.events.Store(result.Events)
	r.rows.Store(result.Rows)
	r.db.Reset() // its connections know the columns of tables that have other names now
	result.Remaining = r.complete(ctx, c.anew)
	return result, err
}
