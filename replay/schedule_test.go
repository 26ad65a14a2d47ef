package replay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// hook is called before each statement of a migration whose context carries it. The statement is not sent until the hook
// returns, so what the hook does happens between two statements of the migration, at a place that does not depend on time.
// When the statement has ended, it is called without one. The projector calls it before it handles an event, without a
// connection: what it loads and stores then is hidden from the tracer.
type hook func(conn *pgx.Conn, sql string)

const handling = "an event"

type hookKey struct{}

func withHook(ctx context.Context, h hook) context.Context {
	return context.WithValue(ctx, hookKey{}, h)
}

// tracer calls hooks.
type tracer struct{}

func (tracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if h, ok := ctx.Value(hookKey{}).(hook); ok {
		h(conn, data.SQL)
	}
	return ctx
}

func (tracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, _ pgx.TraceQueryEndData) {
	if h, ok := ctx.Value(hookKey{}).(hook); ok {
		h(conn, "")
	}
}

func (tracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	if h, ok := ctx.Value(hookKey{}).(hook); ok {
		h(conn, "a batch of statements")
	}
	return ctx
}

func (tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (t tracer) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchEndData) {
	t.TraceQueryEnd(ctx, conn, pgx.TraceQueryEndData{})
}

// action is something that happens between two statements of the migration.
type action struct {
	Gap       int // statements after the action before
	Do        string
	Writer    int
	Aggregate string
	How       how
}

// The actions. The last two do not come from writers: another process works on the migration, from its first statement
// until it is done or has to wait for us; and our session is ended by the server.
const (
	doAdd      = "add"
	doNote     = "note" // an event that nobody handles
	doDraw     = "draw"
	doPrepare  = "prepare"
	doCommit   = "commit"
	doRollBack = "roll back"
	doRival    = "rival"
	doRetry    = "retry" // mostly after the aggregate was mended
	doCrash    = "crash"
)

var actions = rapid.Custom(func(t *rapid.T) action {
	return action{
		Gap: rapid.IntRange(0, 6).Draw(t, "gap"),
		Do: rapid.SampledFrom([]string{ // rapid prefers the first and the last
			doAdd, doAdd, doAdd, doAdd, doAdd, doAdd, doAdd, doDraw, doDraw, doNote, doNote, doPrepare, doRival, doCrash, doRival,
			doAdd, doAdd, doAdd, doRetry, doRetry, doRetry, doRollBack, doRollBack, doCommit, doCommit, doCommit, doCommit, doCommit,
		}).Draw(t, "do"),
		Writer:    rapid.IntRange(0, 2).Draw(t, "writer"),
		Aggregate: rapid.SampledFrom(aggregates).Draw(t, "aggregate"),
		How: how{
			drawn: rapid.Bool().Draw(t, "drawn"),
			leaf:  rapid.Bool().Draw(t, "leaf"),
			undo:  rapid.IntRange(0, 5).Draw(t, "undo") == 5,

			poison: rapid.IntRange(0, 4).Draw(t, "poison") == 4,
		},
	}
})

// schedule does the actions, each at its place.
type schedule struct {
	mu      sync.Mutex // workers run side by side
	world   *world
	phase   string
	left    []action
	gap     int
	patient bool    // the settling under way waits without limit
	highest int64   // committed position
	looks   int     // of a settling that waits for writers, one after the other
	steady  bool    // no writer is open in a catch-up, and the rival may wait until it knows
	locks   int     // that the cutover has asked for
	rivals  process // another one, that works on the same migration; may be nil
	rival   chan error
	err     error // the first that happened in a hook
	count   func(what string)
}

// hook is called by the migration's sessions.
func (s *schedule) hook(conn *pgx.Conn, sql string) {
	if sql == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx := context.Background() // whatever happens to the migration's statement
	s.looks++
	if !strings.Contains(sql, "pg_locks") {
		s.looks = 0
	}
	if s.looks > 1 {
		s.count("looked again for open writers")
	}
	if strings.HasPrefix(sql, "lock table") {
		s.locks++
	}
	if s.looks > 3 && s.patient || s.locks > 1 { // what waits without limit, or tries again and again
		s.keep(s.finishAll(ctx))
	}
	for s.gap--; s.gap <= 0 && len(s.left) > 0 && s.err == nil; {
		a := s.left[0]
		s.left = s.left[1:]
		if len(s.left) > 0 {
			s.gap = s.left[0].Gap
		}
		s.keep(s.do(ctx, a, conn))
	}
}

func (s *schedule) keep(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *schedule) finishAll(ctx context.Context) error {
	for _, wr := range s.world.writers {
		if err := s.end(ctx, wr, true); err != nil {
			return err
		}
	}
	return nil
}

// do does one action; what does not fit the moment is left out.
func (s *schedule) do(ctx context.Context, a action, conn *pgx.Conn) (err error) {
	wr := s.world.writers[a.Writer]
	switch a.Do {
	case doAdd:
		err = wr.append(ctx, a.Aggregate, "Added", a.How)
	case doNote:
		err = wr.append(ctx, a.Aggregate, "Noted", a.How)
	case doDraw:
		err = wr.draw(ctx)
	case doPrepare:
		err = wr.prepare(ctx)
	case doCommit, doRollBack:
		err = s.end(ctx, wr, a.Do == doCommit)
	case doRival, doRetry:
		if s.world.parks && s.phase == phaseCatchUp && (a.Do == doRetry || a.How.poison) {
			return s.startRetry(ctx, a)
		}
		if a.Do == doRival {
			err = s.startRival(ctx)
		}
	case doCrash:
		if conn != nil && conn.PgConn().TxStatus() == 'T' {
			s.count("session ended in " + s.phase)
			_, err = s.world.admin.Exec(ctx, "select pg_terminate_backend($1, 5000)", int32(conn.PgConn().PID()))
		}
	}
	if err != nil {
		return fmt.Errorf("%+v: %w", a, err)
	}
	return nil
}

// end ends a writer's transaction and counts the commits that come late: a higher position has been committed before.
func (s *schedule) end(ctx context.Context, wr *writer, commit bool) error {
	if commit && len(wr.pending) > 0 {
		if slices.Min(wr.pending) < s.highest {
			s.count("late commit in " + s.phase)
		}
		s.highest = max(s.highest, slices.Max(wr.pending))
		if wr.prepared {
			s.count("prepared commit in " + s.phase)
		}
	}
	return wr.finish(ctx, commit)
}

// startRival lets another process work on the migration until it is done or waits for a lock of ours.
func (s *schedule) startRival(ctx context.Context) error {
	if s.rivals == nil || s.phase == phaseBegin {
		return nil
	}
	building, patient := s.phase == phaseRun, s.steady && s.phase == phaseCatchUp
	return s.start(ctx, func(work context.Context) error {
		if building {
			return s.rivals.run(work)
		}
		return s.rivals.catchUp(work, patient)
	})
}

// startRetry lets another process replay an aggregate that is parked, if there is one.
func (s *schedule) startRetry(ctx context.Context, a action) error {
	rival, ok := s.rivals.(*parts)
	if !ok {
		return nil
	}
	aggregate := a.Aggregate
	err := s.world.admin.QueryRow(ctx, "select aggregate_id from projector_parked_events order by aggregate_id < $1, aggregate_id limit 1", aggregate).Scan(&aggregate)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if !a.How.undo {
		if _, err := s.world.admin.Exec(ctx, "update events set data = data - 'poison' where aggregate_id = $1", aggregate); err != nil {
			return err
		}
	}
	return s.start(ctx, func(work context.Context) error {
		err := rival.here().RetryParked(work, aggregate)
		if err == nil {
			s.count("retried in " + s.phase)
		}
		return err
	})
}

// start lets another process work until it is done or waits for a lock of ours, if there is none yet.
func (s *schedule) start(ctx context.Context, rival func(ctx context.Context) error) error {
	if s.rival != nil {
		return nil
	}
	done := make(chan error, 1)
	s.rival = done
	changed := make(chan struct{}, 1)
	var sessions sync.Map // by process id: whether it is in a statement that takes locks, as far as the tracer sees
	work := withHook(ctx, func(conn *pgx.Conn, sql string) {
		if conn == nil {
			return
		}
		sessions.Store(int32(conn.PgConn().PID()),
			sql != "" && (!strings.HasPrefix(strings.TrimSpace(sql), "select") || strings.Contains(sql, "for ")))
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	go func() { done <- rival(work) }()
	for {
		var pids []int32
		locking := false
		sessions.Range(func(pid, locks any) bool {
			pids, locking = append(pids, pid.(int32)), locking || locks.(bool)
			return true
		})
		var waits bool
		err := s.world.admin.QueryRow(ctx, "select exists (select from unnest($1::int[]) pid where cardinality(pg_blocking_pids(pid)) > 0)", pids).Scan(&waits)
		if err != nil {
			return err
		}
		if waits {
			s.count("rival that waits in " + s.phase)
			return nil
		}
		again := time.Duration(0)
		if !locking {
			again = 20 * time.Millisecond // rows of totals are locked by statements that the tracer does not see
		}
		select {
		case err := <-done:
			return s.rivalDone(err)
		case <-changed:
		case <-time.After(again):
		}
	}
}

func (s *schedule) rivalDone(err error) error {
	s.count("rival in " + s.phase)
	s.rival = nil
	return rivalError(err)
}

// join waits for the rival, which waits for nobody any more.
func (s *schedule) join() error {
	if s.rival == nil {
		return nil
	}
	err := <-s.rival
	s.rival = nil
	return rivalError(err)
}

func rivalError(err error) error {
	if err == nil || errors.Is(err, replay.ErrState) { // the step was over before the rival began
		return nil
	}
	if _, poisoned := errors.AsType[*projections.EventError](err); poisoned || errors.Is(err, replay.ErrNotParked) { // of a retry
		return nil
	}
	return fmt.Errorf("rival: %w", err)
}
