package viewschema

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pg"
)

// Locate says what a database with events is to the one of the view tables, for Options: Events, if it is another database; Standby, if
// it is the same one on a hot standby of its server; and neither, if it is the same one on the same server. It returns ErrRefused if the
// server is a copy that has gone its own way, such as a standby that was promoted: its events are not those of the view tables' server.
func Locate(ctx context.Context, views, other *pgxpool.Pool) (events, standby *pgxpool.Pool, err error) {
	ours, err := whereIs(ctx, views)
	if err != nil {
		return nil, nil, fmt.Errorf("looking at the database of the view tables: %w", err)
	}
	theirs, err := whereIs(ctx, other)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("looking at the database of the events: %w", err)
	case ours.identity != theirs.identity:
		return other, nil, nil
	case ours.started.Equal(theirs.started):
		return nil, nil, nil
	case ours.recovers:
		return nil, nil, fmt.Errorf("%w: the server of the view tables is a standby, on which nothing can be written: name its primary in --database-url", ErrRefused)
	case theirs.recovers:
		return nil, other, nil
	}
	return nil, nil, fmt.Errorf("%w: the server of the events is a copy of the one with the view tables, and no standby of it: it writes timeline %s, and that one %s. "+
		"If it was promoted, and the application has moved to it, name it as the database of the view tables; otherwise name a standby", ErrRefused, theirs.timeline, ours.timeline)
}

// where is what tells a database and its server from all others.
type where struct {
	identity string
	timeline string
	started  time.Time // the server, by its clock
	recovers bool
}

func whereIs(ctx context.Context, q pg.Querier) (w where, err error) {
	if w.identity, err = identity(ctx, q); err != nil {
		return w, err
	}
	err = q.QueryRow(ctx, "select ("+timelineQuery+"), pg_postmaster_start_time(), pg_is_in_recovery()").Scan(&w.timeline, &w.started, &w.recovers)
	return w, err
}

// lagging tells for how long a standby has not had what the primary had written. It goes by our clock alone, and by what was asked: a
// primary that writes nothing makes no lag.
type lagging struct{ written []written }

// written is a position in the primary's WAL that the standby has not replayed, and when it was written at the latest.
type written struct {
	at       time.Time
	position int64
}

func (l *lagging) next(at time.Time, primary, standby int64) time.Duration {
	l.written = slices.DeleteFunc(l.written, func(w written) bool { return w.position <= standby })
	if n := len(l.written); primary > standby && (n == 0 || l.written[n-1].position < primary) {
		l.written = append(l.written, written{at, primary})
	}
	if len(l.written) == 0 {
		return 0
	}
	return at.Sub(l.written[0].at)
}

// behind returns for how long the standby has not had what the primary had written, as far as the run has seen.
func (r *run) behind(ctx context.Context) (time.Duration, error) {
	if r.standby == nil {
		return 0, nil
	}
	primary, err := r.written(ctx)
	if err != nil {
		return 0, err
	}
	var replayed int64
	if err := r.standby.QueryRow(ctx, "select "+pg.ReplayedWAL).Scan(&replayed); err != nil {
		return 0, fmt.Errorf("asking the standby how far it is: %w", err)
	}
	return r.lagging.next(time.Now(), primary, replayed), nil
}

// written asks for the primary's position in the WAL. What is not on its disk is not on its way to a standby.
func (s *Schema) written(ctx context.Context) (position int64, err error) {
	err = s.db.QueryRow(ctx, "select "+pg.FlushedWAL).Scan(&position)
	if err != nil {
		return 0, fmt.Errorf("asking the server how far it is: %w", err)
	}
	return position, nil
}

// StandbyStatus is how far the standby is that events are read from.
type StandbyStatus struct {
	Recovers bool       `json:"in_recovery"` // false: it was promoted
	Behind   int64      `json:"lag_bytes"`
	Last     *time.Time `json:"last_commit"` // when the last transaction that it has replayed was committed; nil: none was since it started
}

// standbyStatus is nil if there is no standby.
func (s *Schema) standbyStatus(ctx context.Context) (*StandbyStatus, error) {
	if s.standby == nil {
		return nil, nil
	}
	primary, err := s.written(ctx)
	if err != nil {
		return nil, err
	}
	var st StandbyStatus
	var replayed int64
	err = s.standby.QueryRow(ctx, "select pg_is_in_recovery(), "+pg.ReplayedWAL+", pg_last_xact_replay_timestamp()").Scan(&st.Recovers, &replayed, &st.Last)
	if err != nil {
		return nil, fmt.Errorf("asking the standby how far it is: %w", err)
	}
	st.Behind = max(0, primary-replayed)
	return &st, nil
}

// standbyCheck yields what doctor says of the standby that events are read from. A pass takes minutes.
const standbyCheck = `
	select 'mend', 'the server of --events-url is no standby: it was promoted', 'name a standby of the server with the view tables'
	where not pg_is_in_recovery()
	union all
	select 'mend', pg_catalog.format('our role %I may not read schema %I there, where the bookkeeping tells what can be read', current_user, nspname),
		pg_catalog.format('grant usage on schema %1$I to %2$I; grant select on all tables in schema %1$I to %2$I', nspname, current_user)
	from pg_catalog.pg_namespace n
	where nspname = $1
	  and (not has_schema_privilege(oid, 'usage')
		or exists (
			select
			from pg_catalog.pg_class c
			where c.relnamespace = n.oid and c.relkind = 'r' and c.relname like 'projector\_%' and not has_table_privilege(c.oid, 'select')))
	union all
	select 'mend', 'the replay of WAL is paused there, so nothing new can be read', 'there: select pg_wal_replay_resume()'
	where pg_is_in_recovery() and pg_is_wal_replay_paused()
	union all
	select 'mend', 'recovery_min_apply_delay is ' || current_setting('recovery_min_apply_delay') || ' there, and every pass waits for so long',
		'there: alter system set recovery_min_apply_delay = 0'
	where current_setting('recovery_min_apply_delay')::interval > '1s'
	union all
	select 'mend', pg_catalog.format('hot_standby_feedback is off there, and what reads for longer than max_standby_streaming_delay, %s, can be canceled',
			current_setting('max_standby_streaming_delay')),
		'there: alter system set hot_standby_feedback = on, which has the primary keep dead rows for as long as we read; or max_standby_streaming_delay = ''1h'''
	from pg_catalog.pg_settings
	where name = 'max_standby_streaming_delay' and current_setting('hot_standby_feedback') = 'off' and setting::int between 0 and 5 * 60 * 1000 - 1
	union all
	select 'note', 'the last commit that it has replayed is of ' || to_char(pg_last_xact_replay_timestamp(), 'YYYY-MM-DD HH24:MI:SS') || ': it is behind, or nothing was committed since',
		'see status'
	where pg_is_in_recovery() and pg_last_xact_replay_timestamp() < now() - interval '10 minutes'`
