package viewschema

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// hold is what a run has learned of the server, and whether that makes it hold back.
type hold struct {
	reason string // empty: it does not
	at     time.Time
	wal    int64   // bytes that the server had written by then
	debt   float64 // bytes that it has written above the limit
}

// server is what a run asks about: what it has to keep to, and how the server is doing.
type server struct {
	throttle *Throttle
	at       time.Time
	sharers  int // processes that replay for the migration
	lag      time.Duration
	sessions int
	wal      int64
	blind    bool          // our role is not shown standbys and sessions
	behind   time.Duration // the standby that events are read from
}

// beat says that the run is alive and keeps to what it is told.
func (r *run) beat(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	migration := r.migration.Load()
	_, err := r.db.Exec(ctx, r.sql(`
		update %SCHEMA%.projector_runs
		set seen_at = clock_timestamp(), migration_id = nullif($2::bigint, 0), events = $3, rows = $4, holding = $5
		where id = $1`), r.id, migration, r.events.Load(), r.rows.Load(), r.hold.reason)
	if err != nil || !r.throttled.Load() {
		return err
	}
	now, err := r.look(ctx, migration)
	if err != nil {
		return err
	}
	now.behind, err = r.behind(ctx)
	r.keepTo(now)
	least := int64(0)
	if now.throttle != nil {
		least = now.throttle.MinFreeDisk
	}
	r.least.Store(least)
	return err
}

// room is apart from beat: it may take long to ask for what is free, and who does is alive, and keeps to a pause.
func (r *run) room(ctx context.Context) error { return r.keepFree(ctx, r.least.Load()) }

// look reads what has to be kept to, and of the server, what that needs.
func (r *run) look(ctx context.Context, migration int64) (now server, err error) {
	if now.throttle, err = r.readThrottle(ctx, r.db, migration, ""); err != nil || now.throttle == nil {
		return now, err
	}
	t := now.throttle
	err = r.db.QueryRow(ctx, r.sql(`
		select clock_timestamp(),
			(select count(*) from %SCHEMA%.projector_runs
				where migration_id = $1 and `+outcome+` = 'working'
				  and command in ('`+commandOnline+`', '`+commandCatchUp+`')),
			coalesce(case when $2 then (select max(replay_lag) from pg_catalog.pg_stat_replication) end, '0'),
			coalesce(case when $3 then (
				select count(*)
				from pg_catalog.pg_stat_activity
				where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid()
				  and (usename, application_name) <> (session_user, current_setting('application_name'))) end, 0),
			case when $4 then pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') else 0 end::bigint,
			($2 or $3) and not pg_has_role('pg_read_all_stats', 'usage')`),
		migration, t.MaxLag > 0, t.MaxSessions > 0, t.MaxWALRate > 0).
		Scan(&now.at, &now.sharers, &now.lag, &now.sessions, &now.wal, &now.blind)
	if err != nil {
		return now, fmt.Errorf("looking at the server: %w", err)
	}
	return now, nil
}

// keepTo sets the limit and holds back or goes on, and says so when that changes.
func (r *run) keepTo(now server) {
	reason := r.hold.next(now)
	limit := 0.
	if t := now.throttle; t != nil && t.MaxEventsPerSecond > 0 {
		limit = max(float64(t.MaxEventsPerSecond)/float64(max(1, now.sharers)), float64(r.opts.Workers*leastPerWorker))
	}
	r.throttle.Limit(limit)
	r.throttle.HoldBack(reason != "")
	switch {
	case reason != "" && r.hold.reason == "":
		r.opts.Log.Info().Str("holding", reason).Msg("holding back; change it with: throttle")
	case reason == "" && r.hold.reason != "":
		r.opts.Log.Info().Msg("going on")
	}
	r.hold.reason = reason
}

// usualLag is how far the standby that events are read from may be behind without a MaxLag.
const usualLag = time.Minute

// longestDebt bounds how long a run waits after the server has written too much.
const longestDebt = 10 * time.Second

// next returns why to hold back now; empty if there is no reason. Of the write-ahead log, what is above the limit has to be waited
// off, but no more than longestDebt of it, since others write, too.
func (h *hold) next(now server) string {
	t := cmp.Or(now.throttle, &Throttle{})
	if t.MaxWALRate == 0 {
		h.at, h.wal, h.debt = time.Time{}, 0, 0
	} else {
		if !h.at.IsZero() {
			limit := float64(t.MaxWALRate)
			h.debt = min(max(0, h.debt+float64(now.wal-h.wal)-limit*now.at.Sub(h.at).Seconds()), limit*longestDebt.Seconds())
		}
		h.at, h.wal = now.at, now.wal
	}
	switch {
	case t.Paused:
		return fmt.Sprintf("paused; %s has changed the throttle last, at %s", t.ChangedBy, t.ChangedAt.Format(time.DateTime))
	case now.blind:
		return "the role of this process may not see standbys and sessions, whose limits it has to keep to; grant pg_read_all_stats to it"
	case now.behind > cmp.Or(t.MaxLag, usualLag):
		return fmt.Sprintf("the standby that events are read from is %s behind, and %s is allowed: see --max-lag", now.behind.Round(time.Millisecond), cmp.Or(t.MaxLag, usualLag))
	case t.MaxLag > 0 && now.lag > t.MaxLag:
		return fmt.Sprintf("a standby is %s behind, and --max-lag is %s", now.lag.Round(time.Millisecond), t.MaxLag)
	case t.MaxSessions > 0 && now.sessions > t.MaxSessions:
		return fmt.Sprintf("%d sessions are active, and --max-sessions is %d", now.sessions, t.MaxSessions)
	case h.debt > 0:
		return "the server writes more WAL than --max-wal-rate allows"
	}
	return ""
}
