package replay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// mark is a commit on the primary, by which snapshots of its standbys are told apart, and a server that has taken over without what was
// settled: see doc.go. A nil one is for what is read from the primary.
type mark struct {
	job *Job
	cut int64 // settled before the mark was made; 0: it is not known
	id  string
}

// mark makes one for reading what is settled. It is nil if there is no standby, or nothing is settled. Whoever makes it removes it.
func (j *Job) mark(ctx context.Context, cut int64) (*mark, error) {
	if j.Standby == nil || cut == 0 {
		return nil, nil
	}
	return j.newMark(ctx, cut)
}

// newMark makes one, whether or not there is a standby.
func (j *Job) newMark(ctx context.Context, cut int64) (*mark, error) {
	m := &mark{job: j, cut: cut}
	// A commit that does not wait for the disk may not be on its way to the standby for a while.
	err := j.DB.QueryRow(ctx, j.sql(`
		with made as (insert into %SCHEMA%.projector_marks (migration_id) values ($1) returning id)
		select id::text from made, set_config('synchronous_commit', 'local', true)`), j.Migration).Scan(&m.id)
	if err != nil {
		return nil, fmt.Errorf("making a mark for what is read: %w", err)
	}
	return m, nil
}

// warnUnsettled says that a rebuild reads from the primary although there is a standby.
func (j *Job) warnUnsettled(ctx context.Context) error {
	if j.Standby == nil {
		return nil
	}
	cut, err := j.cut(ctx, j.DB)
	if err == nil && cut == 0 {
		j.Log.Warn().Msg("no cut is settled: events are read from the primary, and not from the standby")
	}
	return err
}

// remove deletes the mark. One that stays after a crash does no harm, and goes with the migration.
func (m *mark) remove(ctx context.Context) {
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, err := m.job.DB.Exec(ctx, m.job.sql(`
		with unhurried as (select set_config('synchronous_commit', 'off', true))
		delete from %SCHEMA%.projector_marks using unhurried where id = $1`), m.id)
	if err != nil {
		m.job.Log.Debug().Err(err).Msg("cannot remove a mark")
	}
}

// exists is SQL for whether a snapshot has the mark $1.
const exists = "exists (select from %SCHEMA%.projector_marks where id = $1)"

// on says whether a server has the mark.
func (m *mark) on(ctx context.Context, q pg.Querier) (has bool, err error) {
	if m == nil {
		return true, nil
	}
	err = q.QueryRow(ctx, m.job.sql("select "+exists), m.id).Scan(&has)
	if err != nil && !pg.IsUndefined(err) { // a standby may not have the table yet
		return false, fmt.Errorf("looking for a mark: %w", err)
	}
	return has, nil
}

// errMoved is that a transaction is about to store what was read from, or settled on, a server with another history.
var errMoved = errors.New("another server has taken over since the events were read")

// here is on, with errMoved if the server has not the mark.
func (m *mark) here(ctx context.Context, tx pgx.Tx) error {
	has, err := m.on(ctx, tx)
	if err == nil && !has {
		err = errMoved
	}
	return err
}

// unmoved calls fn again when it fails with errMoved: fn makes its marks itself.
func (j *Job) unmoved(fn func() error) (err error) {
	for range tries {
		if err = fn(); !errors.Is(err, errMoved) {
			break
		}
		j.Log.Warn().Err(err).Msg("beginning again")
	}
	return err
}

// errBehind is that a snapshot of the standby has not the mark.
var errBehind = errors.New("the standby is behind")

// The pauses between two looks whether the standby has the mark, and how often it is said that it has not.
const (
	shortestLook = 5 * time.Millisecond
	longestLook  = 500 * time.Millisecond
	tellBehind   = 10 * time.Second
)

// read runs fn in a snapshot of the standby that has the mark, in a transaction that may be idle for so long; 0: without limit. It
// waits for one without limit, and without a transaction open. The address may lead to several standbys: each snapshot is looked at.
//
// Errors: ErrNoStandby, and a *ConflictError if recovery has canceled fn.
func (m *mark) read(ctx context.Context, idle time.Duration, fn func(tx pgx.Tx) error) error {
	began := time.Now()
	var told time.Time
	conflicts := int64(math.MaxInt64) // not known yet
	for pause := shortestLook; ; pause = min(2*pause, longestLook) {
		err := pg.InSnapshot(ctx, session(m.job.Standby, idle), pg.PointList, func(tx pgx.Tx) (err error) {
			if conflicts, err = m.there(ctx, tx); err != nil {
				return err
			}
			return fn(tx)
		})
		switch {
		case pg.IsRecoveryConflict(err) || pg.IsConnectionLost(err) && m.canceled(ctx, conflicts):
			return m.job.conflict(ctx, err)
		case !errors.Is(err, errBehind):
			return err
		}
		if pause == longestLook && time.Since(told) > tellBehind {
			told = time.Now()
			if err := m.explain(ctx, time.Since(began)); err != nil {
				return err
			}
		}
		if err := pg.Pause(ctx, pause); err != nil {
			return err
		}
	}
}

// conflictsCount is how many queries the standby has canceled so far.
const conflictsCount = "coalesce((select conflicts from pg_catalog.pg_stat_database where datname = current_database()), 0)"

// canceled says whether the standby has canceled anything since it was at that number. A session that it ends between two statements
// may be found to be gone, without what was said about it. Before PostgreSQL 15, the number comes half a second late.
func (m *mark) canceled(ctx context.Context, before int64) bool {
	for range 10 {
		var now int64
		err := m.job.Standby.QueryRow(ctx, "select "+conflictsCount).Scan(&now)
		if err != nil || now > before {
			return err == nil
		}
		if pg.Pause(ctx, 100*time.Millisecond) != nil {
			return false
		}
	}
	return false
}

// there looks whether the snapshot of the transaction, whose server has to be in recovery after it was taken, has the mark.
func (m *mark) there(ctx context.Context, tx pgx.Tx) (conflicts int64, err error) {
	var recovers, has bool
	err = tx.QueryRow(ctx, m.job.sql("select "+conflictsCount+", pg_is_in_recovery(), "+exists), m.id).
		Scan(&conflicts, &recovers, &has)
	switch {
	case pg.IsUndefined(err): // it has not even the table yet
		return 0, errBehind
	case pg.IsDenied(err):
		return 0, fmt.Errorf("%w; what is read from a standby is told by the bookkeeping there: grant usage on schema %[2]s, and select on all tables in it, to the role of --events-url",
			err, m.job.sql("%SCHEMA%"))
	case err != nil:
		return 0, fmt.Errorf("looking for the mark on the standby: %w", err)
	case !recovers:
		return conflicts, ErrNoStandby
	case !has:
		return conflicts, errBehind
	}
	return conflicts, nil
}

// explain says that the standby is waited for. If it has replayed more WAL than the primary had written with the mark, and does
// not have it, that WAL was another server's.
func (m *mark) explain(ctx context.Context, waited time.Duration) error {
	var written, replayed int64
	err := m.job.DB.QueryRow(ctx, "select "+pg.FlushedWAL).Scan(&written)
	if err != nil {
		return fmt.Errorf("asking the primary for its position in the WAL: %w", err)
	}
	conn, err := m.job.Standby.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("asking the standby for its position in the WAL: %w", err)
	}
	defer conn.Release()
	if err := conn.QueryRow(ctx, "select "+pg.ReplayedWAL).Scan(&replayed); err != nil {
		return fmt.Errorf("asking the standby for its position in the WAL: %w", err)
	}
	if replayed >= written { // it may have come there just now
		has, err := m.on(ctx, conn)
		if err == nil && !has {
			err = ErrNoStandby
		}
		return err
	}
	m.job.Log.Warn().Int64("bytes_behind", written-replayed).Dur("waited", waited).Msg("waiting for the standby that events are read from")
	return nil
}

// await returns when a snapshot of the standby has the mark.
func (m *mark) await(ctx context.Context) error {
	if m == nil {
		return nil
	}
	return m.read(ctx, stuck, func(pgx.Tx) error { return nil })
}

// unread is that a batch could not be read from the standby. It is the reader that goes on, or not.
type unread struct{ err error }

func (e *unread) Error() string { return e.err.Error() }
func (e *unread) Unwrap() error { return e.err }

// settled runs fn in a transaction that reads events which are settled: a snapshot of the standby that has the mark, or what eventsTx
// has.
func (j *Job) settled(ctx context.Context, tx pgx.Tx, m *mark, fn func(events pgx.Tx) error) error {
	if m == nil {
		return j.eventsTx(ctx, tx, fn)
	}
	return m.read(ctx, stuck, fn)
}

// ConflictError is that a standby has canceled what read from it, so as to go on with the replay of its primary's WAL.
type ConflictError struct {
	Delay    string // max_standby_streaming_delay there; empty: it is not known
	Feedback string // hot_standby_feedback there
	err      error
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the standby has canceled what read from it, so as to go on with its replay, which nothing holds up for longer than max_standby_streaming_delay, there %s: raise it, or set hot_standby_feedback = on there, which is %s, or read from the primary, without --events-url; what is done stays done: %s",
		e.Delay, e.Feedback, e.err)
}
func (e *ConflictError) Unwrap() error { return e.err }

// canceled says whether err is a *ConflictError.
func canceled(err error) bool {
	_, ok := errors.AsType[*ConflictError](err)
	return ok
}

// conflict makes the error of what recovery has canceled.
func (j *Job) conflict(ctx context.Context, err error) error {
	e := &ConflictError{Delay: "not known", Feedback: "not known", err: err}
	_ = j.Standby.QueryRow(ctx, "select current_setting('max_standby_streaming_delay'), current_setting('hot_standby_feedback')").
		Scan(&e.Delay, &e.Feedback) // the conflict is what matters
	return e
}
