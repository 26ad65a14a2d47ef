package viewschema

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Throttle is what all processes that work on a migration keep to, together. The cutover does not: it is short, and writers wait
// for it. A limit that is 0 is none.
type Throttle struct {
	Paused             bool
	MaxEventsPerSecond int64         // at least LeastEventsPerSecond
	MaxLag             time.Duration // of any standby, behind the primary
	MaxSessions        int           // active at once, of others than ours
	MaxWALRate         int64         // bytes per second, on average, of the whole server
	MinFreeDisk        int64         // bytes, of each volume that the server writes to: a process that finds less stops, with ErrSpace
	ChangedAt          time.Time
	ChangedBy          string // role
}

// MarshalJSON writes durations in seconds.
func (t Throttle) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Paused             bool      `json:"paused"`
		MaxEventsPerSecond int64     `json:"max_events_per_second"`
		MaxLag             float64   `json:"max_lag_seconds"`
		MaxSessions        int       `json:"max_sessions"`
		MaxWALRate         int64     `json:"max_wal_bytes_per_second"`
		MinFreeDisk        int64     `json:"min_free_disk_bytes"`
		ChangedAt          time.Time `json:"changed_at"`
		ChangedBy          string    `json:"changed_by"`
	}{t.Paused, t.MaxEventsPerSecond, t.MaxLag.Seconds(), t.MaxSessions, t.MaxWALRate, t.MinFreeDisk, t.ChangedAt, t.ChangedBy})
}

// LeastEventsPerSecond is the smallest limit of events. With less, a transaction would wait for so long between two statements that
// its session would be taken for dead.
const LeastEventsPerSecond = 100

// leastPerWorker is the share of a limit that a worker has at least, however many there are, for the same reason.
const leastPerWorker = 10

func (t *Throttle) check() error {
	switch {
	case t.MaxEventsPerSecond != 0 && t.MaxEventsPerSecond < LeastEventsPerSecond:
		return fmt.Errorf("%w: %d events per second are too few: at least %d, or pause", ErrRefused, t.MaxEventsPerSecond, LeastEventsPerSecond)
	case t.MaxLag < 0 || t.MaxSessions < 0 || t.MaxWALRate < 0 || t.MinFreeDisk < 0:
		return fmt.Errorf("%w: a limit of a throttle is below 0", ErrRefused)
	}
	return nil
}

// Throttle returns what the migration under way keeps to, nil if to nothing. It returns ErrState if none is under way.
func (s *Schema) Throttle(ctx context.Context) (*Throttle, error) {
	id, err := s.throttled(ctx)
	if err != nil {
		return nil, err
	}
	return s.readThrottle(ctx, s.db, id, "")
}

// ChangeThrottle changes what the migration under way keeps to, and returns it. Processes that are at work go by it within about a
// second; batches that they have begun they finish. It returns ErrState if no migration is under way, and ErrRefused if a limit is
// not possible, or if our role may not see what it is about.
func (s *Schema) ChangeThrottle(ctx context.Context, change func(*Throttle)) (*Throttle, error) {
	if err := s.ensureInit(ctx, false); err != nil {
		return nil, err
	}
	id, err := s.throttled(ctx)
	if err != nil {
		return nil, err
	}
	return s.changeThrottle(ctx, id, change)
}

// throttled returns the migration under way, whatever its target: who is woken by a server that has too much to do may have any
// definition at hand.
func (s *Schema) throttled(ctx context.Context) (migration int64, err error) {
	m, err := s.underWay(ctx, s.db)
	switch {
	case err != nil:
		return 0, err
	case m == nil:
		return 0, fmt.Errorf("%w: no migration is under way; limits are for one, and can be given with: migrate online", ErrState)
	}
	return m.Migration, nil
}

func (s *Schema) changeThrottle(ctx context.Context, migration int64, change func(*Throttle)) (now *Throttle, err error) {
	err = s.inTx(ctx, pg.PointList, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, s.sql("insert into %SCHEMA%.projector_throttles (migration_id) values ($1) on conflict do nothing"), migration)
		if err != nil {
			return err
		}
		t, err := s.readThrottle(ctx, tx, migration, "for update")
		if err != nil {
			return err
		}
		change(t)
		if err := t.check(); err != nil {
			return err
		}
		if err := s.maySee(ctx, tx, t); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.sql(`
			update %SCHEMA%.projector_throttles
			set paused = $2, max_events_per_second = nullif($3::bigint, 0), max_lag = nullif($4::interval, '0'), max_sessions = nullif($5::int, 0),
				max_wal_rate = nullif($6::bigint, 0), min_free_disk = nullif($7::bigint, 0), changed_at = now(), changed_by = session_user
			where migration_id = $1`), migration, t.Paused, t.MaxEventsPerSecond, t.MaxLag, t.MaxSessions, t.MaxWALRate, t.MinFreeDisk)
		if err == nil {
			now, err = s.readThrottle(ctx, tx, migration, "")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("changing the throttle: %w", err)
	}
	return now, nil
}

// readThrottle returns nil if there is none, and if the bookkeeping is an older Projector's.
func (s *Schema) readThrottle(ctx context.Context, q pg.Querier, migration int64, lock string) (*Throttle, error) {
	t := &Throttle{}
	err := q.QueryRow(ctx, s.sql(`
		select paused, coalesce(max_events_per_second, 0), coalesce(max_lag, '0'), coalesce(max_sessions, 0), coalesce(max_wal_rate, 0),
			coalesce(min_free_disk, 0), changed_at, changed_by
		from %SCHEMA%.projector_throttles
		where migration_id = $1 `)+lock, migration).
		Scan(&t.Paused, &t.MaxEventsPerSecond, &t.MaxLag, &t.MaxSessions, &t.MaxWALRate, &t.MinFreeDisk, &t.ChangedAt, &t.ChangedBy)
	switch {
	case errors.Is(err, pgx.ErrNoRows), pg.IsUndefined(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the throttle: %w", err)
	}
	return t, nil
}

// maySee refuses limits of what our role is not shown: it would take a busy server for an idle one.
func (s *Schema) maySee(ctx context.Context, q pg.Querier, t *Throttle) error {
	if t.MaxLag == 0 && t.MaxSessions == 0 {
		return nil
	}
	var sees bool
	var role string
	err := q.QueryRow(ctx, "select pg_has_role('pg_read_all_stats', 'usage'), quote_ident(current_user)").Scan(&sees, &role)
	if err != nil {
		return fmt.Errorf("looking up the rights of our role: %w", err)
	}
	if !sees {
		return fmt.Errorf("%w: our role %[2]s may not see standbys and sessions, whose limits it would have to keep to; type: grant pg_read_all_stats to %[2]s", ErrRefused, role)
	}
	return nil
}
