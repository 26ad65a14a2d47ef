package eventtable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pg"
)

// worker takes the steps, all of them on one connection: with it ends the advisory lock that keeps others away, so that
// two can never number the same rows.
type worker struct {
	*pgx.Conn
	options Options
	table   *table
	db      *pgxpool.Pool // to look at what the connection waits for
}

// prepareLock is the first key of the advisory lock; the second is the table's oid.
const prepareLock = 0x70726570 // "prep"

// Run takes the steps that are not done, in their order, and returns their names. It stops between two steps or batches when ctx
// ends; an index build is given up, and begun anew by the next run. Errors: ErrRefused, ErrBusy, ErrLockWait, or what went
// wrong with a step. What was done before stays in any case.
func (p *Preparation) Run(ctx context.Context, db *pgxpool.Pool) (taken []string, err error) {
	if err := p.Err(); err != nil || p.Nothing() {
		return nil, err
	}
	w := &worker{options: p.options, db: db}
	if w.Conn, err = connect(ctx, db); err != nil {
		return nil, err
	}
	defer func() {
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		_ = w.Close(c) // its locks end with it, however it ends
	}()
	if w.table, err = p.look(ctx, w); err != nil {
		return nil, err
	}
	if err := w.alone(ctx); err != nil {
		return nil, err
	}
	ran := map[string]bool{}
	for {
		if w.table, err = p.look(ctx, w); err != nil {
			return taken, err
		}
		for i := range p.Steps { // the server counts changed rows with a delay
			p.Steps[i].Done = p.Steps[i].Done || p.Steps[i].Name == stepAnalyze && ran[stepAnalyze]
		}
		step := p.next()
		switch building := w.table.building(); {
		case step == nil:
			return taken, nil
		case building != nil:
			return taken, fmt.Errorf("%w: pid %d is building index %s", ErrBusy, building.Building, building.Name)
		case ctx.Err() != nil:
			return taken, context.Cause(ctx)
		case ran[step.Name] && step.Name != stepFill: // which writers may have undone by writing
			return taken, fmt.Errorf("%s: it was taken and has had no effect; does somebody else change %s?", step.Name, p.Relation)
		}
		if err := p.take(ctx, w, *step, ran); err != nil {
			return taken, fmt.Errorf("%s: %w", step.Name, err)
		}
		if !ran[step.Name] {
			taken = append(taken, step.Name)
		}
		ran[step.Name] = true
	}
}

func (p *Preparation) take(ctx context.Context, w *worker, step Step, ran map[string]bool) error {
	if p.options.Begin != nil && !ran[step.Name] {
		p.options.Begin(step)
	}
	err := step.run(ctx, w)
	if errors.Is(err, errTail) { // the next look finds that there is more to fill
		delete(ran, step.Name)
		return nil
	}
	if err == nil && p.options.End != nil {
		p.options.End(step)
	}
	return err
}

const (
	cleanUp  = 5 * time.Second
	dropWait = time.Minute
)

// connect makes a connection that is not the pool's: it has settings of its own, which must not come back there.
func connect(ctx context.Context, db *pgxpool.Pool) (*pgx.Conn, error) {
	config := db.Config().ConnConfig.Copy()
	// Closing the connection would leave an index build going on in the server.
	config.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: cleanUp}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, `
		select set_config(name, value, false)
		from (values
			('statement_timeout', '0'),                       -- steps that hold off others have their own
			('lock_timeout', '0'),
			('idle_in_transaction_session_timeout', '60s'),   -- a process that hangs gives its locks back
			('row_security', 'off'),                          -- rather an error than rows that are overlooked
			('plan_cache_mode', 'force_custom_plan')
		) as settings (name, value)`)
	if err == nil {
		// So that an index build whose client was killed ends soon. Not every platform can.
		_, _ = conn.Exec(ctx, "set client_connection_check_interval = '1s'")
		_, _ = conn.Exec(ctx, "set transaction_timeout = 0") // before PostgreSQL 17 there is none; an index build is a transaction
		return conn, nil
	}
	_ = conn.Close(ctx)
	return nil, fmt.Errorf("setting up the session: %w", err)
}

// alone takes the advisory lock. A run that was killed a moment ago holds it until the server has noticed. A session that waits
// for the lock would have a snapshot, for which an index build of the one who holds it waits: so we ask again and again.
func (w *worker) alone(ctx context.Context) error {
	patience := time.After(min(w.options.LockWait, 10*time.Second))
	for {
		var ours bool
		err := w.QueryRow(ctx, "select pg_try_advisory_lock($1, $2)", prepareLock, int32(w.table.oid)).Scan(&ours)
		if err != nil {
			return fmt.Errorf("looking whether somebody else prepares %s: %w", w.table.relation(), err)
		}
		if ours {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		case <-patience:
			return w.busy(ctx)
		}
	}
}

// busy says who prepares the table.
func (w *worker) busy(ctx context.Context) error {
	var holder int32
	err := w.QueryRow(ctx, `
		select coalesce((select pid from pg_locks where locktype = 'advisory' and granted and classid::int8 = $1 and objid = $2
			and database = (select oid from pg_database where datname = current_database()) limit 1), 0)`,
		int64(prepareLock), w.table.oid).Scan(&holder)
	if err != nil {
		return fmt.Errorf("looking who prepares %s: %w", w.table.relation(), err)
	}
	return fmt.Errorf("%w: pid %d; wait for it, or end it and type the same again", ErrBusy, holder)
}

// exec runs statements that hold nobody off, one by one and outside of a transaction: what they wait for has no queue behind
// it, since readers and writers do not conflict with it, and so they wait without limit.
func (w *worker) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		pg.Fault(ctx, pg.Before, pg.PointPrepare)
		if err := w.watched(ctx, sql); err != nil {
			return err
		}
		pg.Fault(ctx, pg.After, pg.PointPrepare)
	}
	return nil
}

// watched runs a statement and says now and then how far it is and whom it waits for.
func (w *worker) watched(ctx context.Context, sql string) error {
	ctx, done := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(tellEvery):
				w.tell(ctx)
			}
		}
	}()
	_, err := w.PgConn().Exec(ctx, sql).ReadAll() // with the simple protocol: some cannot be prepared
	done()
	<-watching
	return err
}

// tellEvery is how often a step that takes long says so.
const tellEvery = 10 * time.Second

func (w *worker) tell(ctx context.Context) {
	var phase, waiting string
	var done, total int64
	err := w.db.QueryRow(ctx, `
		select phase, greatest(blocks_done, tuples_done), greatest(blocks_total, tuples_total),
			coalesce('pid ' || nullif(current_locker_pid, 0), '')
		from pg_catalog.pg_stat_progress_create_index
		where pid = $1`, int32(w.PgConn().PID())).Scan(&phase, &done, &total, &waiting)
	if err != nil { // it builds no index: nothing to tell
		return
	}
	log := w.options.Log.Info().Str("phase", phase)
	if total > 0 {
		log = log.Str("done", strconv.FormatInt(100*done/total, 10)+"%")
	}
	if waiting != "" {
		log = log.Str("waiting_for", waiting)
	}
	log.Msg("building an index")
}

// locked runs fn in a transaction that has the table to itself. While it waits for the lock, everybody who comes after waits
// behind it, even readers; so it waits briefly and tries again. A statement that takes longer than the budget is a reason to
// try again as well, and a process that hangs loses the lock.
func (w *worker) locked(ctx context.Context, fn func(tx pgx.Tx) error) error {
	deadline, told := time.Now().Add(w.options.LockWait), time.Now()
	for try := 1; ; try++ {
		err := pg.InTx(ctx, w, pg.PointPrepare, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true),
					set_config('idle_in_transaction_session_timeout', $3, true)`,
				pg.Milliseconds(w.options.LockTimeout), pg.Milliseconds(w.options.PauseBudget), pg.Milliseconds(4*w.options.PauseBudget))
			if err == nil {
				_, err = tx.Exec(ctx, w.table.lockSQL())
			}
			if err != nil {
				return err
			}
			return fn(tx)
		})
		switch {
		case err == nil, ctx.Err() != nil:
			return err
		case !pg.IsLockTimeout(err) && !pg.IsStatementTimeout(err) && !pg.IsRetryable(err):
			return err
		}
		over := time.Now().After(deadline)
		if over || time.Since(told) > tellEvery {
			told = time.Now()
			holders, lookErr := pg.Holders(ctx, w, []uint32{w.table.oid})
			if lookErr != nil {
				return errors.Join(err, lookErr)
			}
			if over {
				return fmt.Errorf("%w within %s: %w; in the way: %s", ErrLockWait, w.options.LockWait, err, pg.Describe(holders))
			}
			w.options.Log.Info().Err(err).Int("try", try).Str("in_the_way", pg.Describe(holders)).Msg("gave the lock back; trying again")
		}
		if err := pg.Pause(ctx, time.Duration(rand.Int64N(int64(min(try, 10))*int64(100*time.Millisecond)))); err != nil {
			return err
		}
	}
}

// alter is locked for statements.
func (w *worker) alter(ctx context.Context, statements ...string) error {
	return w.locked(ctx, func(tx pgx.Tx) error { return run(ctx, tx, statements...) })
}

func run(ctx context.Context, tx pgx.Tx, statements ...string) error {
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
