package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

func initialize(ctx context.Context, s *session) error {
	if s.flags.Bool("check") {
		pending, err := s.schema.PendingInit(ctx)
		if err != nil {
			return err
		}
		if err := s.answer(newPendingInitView(pending)); err != nil || len(pending) == 0 {
			return err
		}
		return &quietError{exitPending}
	}
	applied, err := s.schema.Init(ctx)
	if err != nil {
		return err
	}
	return s.answer(newInitView(applied))
}

func version(ctx context.Context, s *session) error {
	current, err := s.schema.CurrentVersion(ctx)
	if err != nil {
		return err
	}
	v := newVersionView(current, s.schema.Target())
	if err := s.answer(v); err != nil || !s.flags.Bool("check") {
		return err
	}
	switch {
	case v.Pending:
		return &quietError{exitPending}
	case current > v.Target:
		return fmt.Errorf("%w: it is at version %d and the definition's target is %d; this binary is older than the database",
			viewschema.ErrBelowCurrent, current, v.Target)
	}
	return nil
}

func plan(ctx context.Context, s *session) error {
	p, err := s.schema.Plan(ctx)
	if err != nil {
		return err
	}
	if s.flags.Bool("sql") {
		return s.answer(planSQLView{Type: "sql", Statements: s.schema.SQL(p)})
	}
	view := newPlanView(p)
	if view.Estimate, err = estimated(ctx, s, p); err != nil {
		return err
	}
	check, strict := s.flags.Bool("check"), s.flags.Bool("strict-types")
	if err := s.answer(view); err != nil || !check && !strict {
		return err
	}
	for _, h := range p.Hazards {
		if h.Blocks != "" {
			return &quietError{exitRefused}
		}
	}
	if check && !p.Nothing() {
		return &quietError{exitPending}
	}
	return nil
}

// catchUp is one pass, or with --follow pass after pass until the cutover.
func catchUp(ctx context.Context, s *session) error {
	if !s.flags.Bool("follow") {
		return step((*viewschema.Schema).CatchUp)(ctx, s)
	}
	return follow(ctx, s)
}

// online builds, and with --follow goes on with catch-ups.
func online(ctx context.Context, s *session) error {
	if err := step((*viewschema.Schema).MigrateOnline)(ctx, s); err != nil || !s.flags.Bool("follow") {
		return err
	}
	return follow(ctx, s)
}

// followEvery is the pause between two passes that find little.
const followEvery = time.Second

func follow(ctx context.Context, s *session) error {
	began := time.Now()
	all := viewschema.Result{From: s.schema.Target(), To: s.schema.Target(), State: replay.Active, Nothing: true}
	var failed error
	err := s.schema.Follow(ctx, followEvery, func(r viewschema.Result) {
		all.From, all.Cut, all.Nothing = r.From, r.Cut, false
		all.Events += r.Events
		all.Rows += r.Rows
		if r.Events > 0 && failed == nil {
			v := newResultView("migrate catchup", r)
			v.following = true
			failed = s.answer(v)
		}
	})
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	all.Elapsed = time.Since(began)
	return s.answer(newResultView("follow", all))
}

// cutover is step for a cutover. It warns of a maintenance that nobody has typed: a variable that was left over would do without
// the lock.
func cutover(run func(*viewschema.Schema, context.Context) (viewschema.Result, error)) func(context.Context, *session) error {
	return func(ctx context.Context, s *session) error {
		if s.flags.Bool("maintenance") && slices.Contains(s.unsaid, "maintenance") {
			s.log.Warn().Msgf("%s is set: the event table is not locked; all writers must have been stopped", variable("maintenance"))
		}
		if s.flags.Bool("with-parked") && slices.Contains(s.unsaid, "with-parked") {
			s.log.Warn().Msgf("%s is set: parked aggregates are left out of the new version", variable("with-parked"))
		}
		return step(run)(ctx, s)
	}
}

// step runs a method that brings the database forward, or back.
func step(run func(*viewschema.Schema, context.Context) (viewschema.Result, error)) func(context.Context, *session) error {
	return func(ctx context.Context, s *session) error {
		r, err := run(s.schema, ctx)
		if err != nil {
			return err
		}
		return s.answer(newResultView(s.path(s.flags), r))
	}
}
