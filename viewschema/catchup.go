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
// application runs. It returns ErrState if nothing is built.
func (s *Schema) CatchUp(ctx context.Context) (Result, error) {
	if err := s.ensureInit(ctx, false); err != nil {
		return Result{}, err
	}
	m, plan, err := s.builtMigration(ctx)
	if err != nil {
		return Result{}, err
	}
	source, err := s.source(ctx)
	if err != nil {
		return Result{}, err
	}
	job := s.job(m, source, plan)
	pass, err := job.CatchUp(ctx, eventstore.Wait{Limit: catchUpWait})
	if err != nil {
		return Result{}, s.advise(err, "migrate catchup")
	}
	parked, err := s.parkedNow(ctx, job)
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

// builtMigration returns the migration to our target, with its plan; ErrState if it is not built.
func (s *Schema) builtMigration(ctx context.Context) (*migration, *Plan, error) {
	m, err := s.mine(ctx, s.db)
	switch {
	case err != nil:
		return nil, nil, err
	case m == nil:
		return nil, nil, fmt.Errorf("%w: no migration to version %d is under way; begin with: migrate online", ErrState, s.Target())
	case m.rollback:
		return nil, nil, fmt.Errorf("%w: a rollback to version %d; go on with: rollback, or give it up: migrate abort", ErrOtherMigration, m.to)
	case m.state == replay.Building:
		return nil, nil, fmt.Errorf("%w: the migration to version %d is still building; go on with: migrate online", ErrState, m.to)
	}
	plan, err := s.def.reduce(m.from)
	return m, plan, err
}

// Follow catches up again and again, with a pause after each pass that found little, until the cutover: it then returns
// nil. told is called after each pass. Errors: ErrState if the migration is aborted meanwhile, and those of CatchUp.
func (s *Schema) Follow(ctx context.Context, pause time.Duration, told func(Result)) error {
	for {
		r, err := s.CatchUp(ctx)
		if errors.Is(err, ErrState) {
			if current, lookErr := s.CurrentVersion(ctx); lookErr == nil && current == s.Target() {
				return nil // the cutover came between two passes, or in one
			}
		}
		if err != nil {
			return err
		}
		told(r)
		if r.Events > followAtOnce {
			continue
		}
		if err := pg.Pause(ctx, pause); err != nil {
			return err
		}
	}
}

// followAtOnce is how many events a pass has to find for the next to begin without a pause.
const followAtOnce = 1_000
