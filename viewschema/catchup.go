package viewschema

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// CatchUp applies the events that were appended since the migration was built, or since the last catch-up, while the
// application runs. Where the target is live, there is nothing to do. Errors: ErrState if nothing is built; ErrBelowCurrent.
func (s *Schema) CatchUp(ctx context.Context) (Result, error) {
	if err := s.ensureInit(ctx, false); err != nil {
		return Result{}, err
	}
	m, plan, err := s.builtMigration(ctx)
	if errors.Is(err, ErrState) && s.isLive(ctx) {
		return Result{From: s.Target(), To: s.Target(), State: replay.Active, Nothing: true}, nil
	}
	if err != nil {
		return Result{}, err
	}
	return s.record(ctx, commandCatchUp, m.from, m.to, func(ctx context.Context, r *run) (Result, error) {
		if err := r.of(ctx, m); err != nil {
			return Result{}, err
		}
		job, err := r.catchUpJob(ctx, m, plan)
		if err != nil {
			return Result{}, err
		}
		return r.catchUp(ctx, m, job)
	})
}

// catchUpJob is the work of a pass.
func (r *run) catchUpJob(ctx context.Context, m *migration, plan *Plan) (*replay.Job, error) {
	r.migration.Store(m.Migration) // another one, if the one before was aborted
	source, err := r.source(ctx)
	if err != nil {
		return nil, err
	}
	job := r.job(m, source, plan)
	job.Throttle = r.throttle
	return job, nil
}

// catchUp is one pass.
func (r *run) catchUp(ctx context.Context, m *migration, job *replay.Job) (Result, error) {
	pass, err := job.CatchUp(ctx, eventstore.Wait{Limit: catchUpWait})
	r.events.Add(pass.Events)
	r.rows.Add(pass.Rows)
	if err != nil {
		return Result{}, r.advise(err, commandCatchUp)
	}
	parked, err := r.parkedNow(ctx, job)
	if err != nil {
		return Result{}, err
	}
	return Result{
		From: m.from, To: m.to, State: replay.Built, Nothing: pass.Events == 0, Events: pass.Events, Rows: pass.Rows,
		Cut: pass.Cut, Parked: parked, Waiting: pass.Open, Elapsed: pass.Elapsed,
	}, nil
}

// catchUpWait is how long a catch-up waits for open writers before it goes on with the old cut: long enough for ordinary
// transactions.
const catchUpWait = 2 * time.Second

// builtMigration returns the migration to our target, with its plan; ErrState if it is not built, ErrBelowCurrent if the target is passed.
func (s *Schema) builtMigration(ctx context.Context) (*migration, *Plan, error) {
	m, err := s.mine(ctx, s.db)
	switch {
	case err != nil:
		return nil, nil, err
	case m == nil:
		return nil, nil, s.noneUnderWay(ctx)
	case m.rollback:
		return nil, nil, fmt.Errorf("%w: a rollback to version %d; go on with: rollback, or give it up: migrate abort", ErrOtherMigration, m.to)
	case m.state == replay.Building:
		return nil, nil, fmt.Errorf("%w: the migration to version %d is still building; go on with: migrate online", ErrState, m.to)
	}
	plan, err := s.def.reduce(m.from)
	return m, plan, err
}

// noneUnderWay says what to do instead of going on with a migration to our target.
func (s *Schema) noneUnderWay(ctx context.Context) error {
	current, err := s.CurrentVersion(ctx)
	if err != nil {
		return err
	}
	if err := s.checkDirection(current); err != nil {
		return err
	}
	if current == s.Target() {
		return fmt.Errorf("%w: none is under way; the database is at version %d, the definition's", ErrState, current)
	}
	rolledBack, err := s.rolledBack(ctx, current)
	if err != nil {
		return err
	}
	if rolledBack {
		return fmt.Errorf("%w: version %d was rolled back; to go live with it again, type: rollback", ErrState, s.Target())
	}
	return fmt.Errorf("%w: no migration to version %d is under way; begin with: migrate online", ErrState, s.Target())
}

// Follow catches up again and again, with a pause after each pass that found little, until the cutover: it then returns
// nil. told is called after each pass. Errors: ErrState if the migration is aborted meanwhile, and those of CatchUp.
func (s *Schema) Follow(ctx context.Context, pause time.Duration, told func(Result)) error {
	if err := s.ensureInit(ctx, false); err != nil {
		return err
	}
	m, _, err := s.builtMigration(ctx)
	if errors.Is(err, ErrState) && s.isLive(ctx) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = s.record(ctx, commandCatchUp, m.from, m.to, func(ctx context.Context, r *run) (Result, error) {
		if err := r.of(ctx, m); err != nil {
			return Result{}, err
		}
		return Result{}, r.follow(ctx, pause, told)
	})
	return err
}

// isLive says whether the cutover to our target has come.
func (s *Schema) isLive(ctx context.Context) bool {
	current, err := s.CurrentVersion(ctx)
	return err == nil && current == s.Target()
}

func (r *run) follow(ctx context.Context, pause time.Duration, told func(Result)) error {
	var lost time.Time // since when there is no connection; zero: there is one
	for {
		var job *replay.Job
		m, plan, err := r.builtMigration(ctx)
		if err == nil {
			job, err = r.catchUpJob(ctx, m, plan)
		}
		if pg.IsConnectionLost(err) && ctx.Err() == nil { // the job itself has patience, and an end of it
			if lost.IsZero() {
				lost = time.Now()
				r.opts.Log.Warn().Err(err).Stringer("patience", replay.Patience).Msg("the connection is lost; waiting for the server")
			}
			if time.Since(lost) < replay.Patience {
				if err := pg.Pause(ctx, pause); err != nil {
					return err
				}
				continue
			}
		}
		lost = time.Time{}
		var result Result
		if err == nil {
			result, err = r.catchUp(ctx, m, job)
		}
		if errors.Is(err, ErrState) && r.isLive(ctx) {
			return nil // the cutover came between two passes, or in one
		}
		if err != nil {
			return err
		}
		told(result)
		if result.Events > followAtOnce {
			continue
		}
		if err := pg.Pause(ctx, pause); err != nil {
			return err
		}
	}
}

// followAtOnce is how many events a pass has to find for the next to begin without a pause.
const followAtOnce = 1_000
