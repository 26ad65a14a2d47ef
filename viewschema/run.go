package viewschema

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// Runner says who runs a command, for the record that it leaves.
type Runner struct {
	Program string // the binary and its version
	Host    string
	User    string // of the host
	PID     int    // of the process
}

// run is a command at work. Its row in projector_runs is written when it begins and when it ends, and about every second between:
// whoever looks at the database sees that it is alive. A process that dies leaves its row without an end.
type run struct {
	*Schema
	id       int64
	throttle *replay.Throttle

	migration    atomic.Int64 // 0: not known yet
	throttled    atomic.Bool  // it keeps to the migration's throttle; a cutover and an abort do not
	least        atomic.Int64 // bytes that are to stay free on each volume
	events, rows atomic.Int64

	mu      sync.Mutex
	hold    hold
	lagging lagging
}

// The commands that leave a record.
const (
	commandOnline   = "migrate online"
	commandCatchUp  = "migrate catchup"
	commandOffline  = "migrate offline"
	commandAbort    = "migrate abort"
	commandRollback = "rollback"
)

// beatEvery is how often a run says that it is alive, and asks what it has to keep to.
const beatEvery = time.Second

// record has work done as a run: begun, alive and ended as the bookkeeping tables say. The work's context ends when the run has to stop.
func (s *Schema) record(ctx context.Context, command string, from, to int, work func(ctx context.Context, r *run) (Result, error)) (Result, error) {
	if command != commandAbort {
		if err := s.ensureLogged(ctx, s.db); err != nil {
			return Result{}, err
		}
	}
	own := *s
	r := &run{Schema: &own, throttle: replay.NewThrottle()}
	by := s.opts.Runner
	err := s.db.QueryRow(ctx, s.sql(`
		insert into %SCHEMA%.projector_runs (command, from_version, to_version, program, host, os_user, pid)
		values ($1, $2, $3, $4, $5, $6, $7)
		returning id`), command, from, to, by.Program, by.Host, by.User, by.PID).Scan(&r.id)
	if err != nil {
		return Result{}, fmt.Errorf("recording that %s begins: %w", command, err)
	}
	r.opts.Log = s.opts.Log.With().Int64("run", r.id).Logger()
	var result Result
	stop := replay.Every(ctx, beatEvery, r.tryBeat)
	err = beside(ctx, r.room, func(ctx context.Context) (err error) {
		result, err = work(ctx, r)
		return err
	})
	stop()
	r.end(ctx, result, err)
	return result, err
}

// beside has check called about every second while work is under way. If it returns an error, the work's context ends, and if the work
// then fails, that is why.
func beside(ctx context.Context, check, work func(ctx context.Context) error) error {
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	end := replay.Every(working, beatEvery, func(ctx context.Context) {
		if err := check(ctx); err != nil {
			stop(err)
		}
	})
	err := work(working)
	end()
	if why := context.Cause(working); err != nil && ctx.Err() == nil && why != nil {
		return why
	}
	return err
}

// tryBeat leaves all as it is if the server cannot be asked: the work itself will find out what is the matter with it.
func (r *run) tryBeat(ctx context.Context) {
	if err := r.beat(ctx); err != nil && ctx.Err() == nil {
		r.opts.Log.Debug().Err(err).Msg("cannot tell that the run is alive")
	}
}

// of tells the run which migration it works on. What the options want to be kept to is recorded then, and kept to from the
// beginning.
func (r *run) of(ctx context.Context, m *migration) error {
	r.migration.Store(m.Migration)
	r.throttled.Store(true)
	var err error
	if r.opts.Throttle != nil {
		r.said.Do(func() { _, err = r.changeThrottle(ctx, m.Migration, r.opts.Throttle) })
	}
	if err != nil {
		return err
	}
	if err := r.beat(ctx); err != nil && !pg.IsConnectionLost(err) { // after which the work waits for the server
		return err
	}
	return r.room(ctx)
}

// job is Schema.job, with sessions that are known to be the run's.
func (r *run) job(m *migration, source *eventstore.Reader, plan *Plan) *replay.Job {
	job := r.Schema.job(m, source, plan)
	job.Ledger.Run, job.Host = r.id, r.opts.Runner.Host
	return job
}

// watched makes a job one of the run: it keeps to the throttle, and its events and rows are counted.
func (r *run) watched(job *replay.Job) *replay.Job {
	told := job.Progress
	job.Throttle = r.throttle
	job.Progress = func(p replay.Progress) {
		r.events.Store(p.OwnEvents)
		r.rows.Store(p.OwnRows)
		if told != nil {
			told(p)
		}
	}
	return job
}

// end records how the run has ended, even if it was interrupted.
func (r *run) end(ctx context.Context, result Result, err error) {
	outcome, text, public := "done", "", ""
	var batch *int
	if err != nil {
		outcome, text, public = "failed", pg.Storable(err.Error()), withoutPayload(err)
		if ctx.Err() != nil {
			outcome = "interrupted"
		}
		if b, ok := errors.AsType[*replay.BatchError](err); ok {
			batch = &b.Number
		}
	}
	c, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, failed := r.db.Exec(c, r.sql(`
		update %SCHEMA%.projector_runs r
		set ended_at = clock_timestamp(), seen_at = clock_timestamp(), holding = '', migration_id = nullif($2::bigint, 0), outcome = $3, error = $4, failed = $5,
			failed_batch = $6, events = $7, rows = $8, held_off = nullif($9::interval, '0'),
			phases = coalesce((
				select jsonb_object_agg(name, seconds)
				from (
					select case phase when 1 then 'replay' when 2 then 'merge' when 4 then 'index' when 5 then 'analyze' end as name,
						-- who waits for the last batch of a phase has begun the transaction of the next one
						round(extract(epoch from max(done_at) - greatest(min(started_at), lag(max(done_at)) over (order by phase)))::numeric, 3) as seconds
					from %SCHEMA%.projector_batches
					where migration_id = $2 and r.command = '`+commandOnline+`' and done_at is not null
					group by phase
				) p), '{}')
		where id = $1`), r.id, r.migration.Load(), outcome, text, public, batch, r.events.Load(), r.rows.Load(), result.HeldOff)
	if failed != nil {
		r.opts.Log.Warn().Err(failed).Msg("cannot record how the run has ended")
	}
}

// withoutPayload says what went wrong without what handlers, decoders and PostgreSQL quote of payloads and rows: what went wrong
// with an event is where it is, and with a statement, its SQLSTATE.
func withoutPayload(err error) string {
	where := ""
	if b, ok := errors.AsType[*replay.BatchError](err); ok {
		where = b.Doing + ": "
	}
	if e, ok := errors.AsType[*projections.EventError](err); ok {
		what := "could not be decoded"
		if e.Projector != "" {
			what = "could not be projected by " + e.Projector
		}
		return fmt.Sprintf("%sevent %d (%s, aggregate %s, sequence %d) %s", where, e.Position, e.Type, e.AggregateID, e.Sequence, what)
	}
	for _, known := range []error{projections.ErrShared, ErrAggregates, replay.ErrMostParked, replay.ErrInOrder} { // they go on with rows, or events
		if errors.Is(err, known) {
			return where + known.Error()
		}
	}
	for _, ours := range []error{ErrState, ErrRefused, ErrChanged, ErrOtherMigration, ErrBelowCurrent, ErrBookkeeping, ErrInit, ErrLockWait, ErrLockLost, ErrNoStandby, ErrSpace} {
		if errors.Is(err, ours) {
			return pg.Storable(err.Error())
		}
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return where + pg.Condition(e)
	}
	if pg.IsConnectionLost(err) {
		return where + "the connection was lost"
	}
	return where + "see its error"
}
