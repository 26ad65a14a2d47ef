package viewschema

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Overview is what a page about the view schema shows. There is no payload in it, no text of a query and no password: the errors
// of parked events and of runs, which may tell of payloads, are left out.
type Overview struct {
	Status
	At          time.Time    `json:"at"`   // by the database's clock, like all times here
	Grid        Grid         `json:"grid"` // what From and To of a batch are
	Batches     []Batch      `json:"batches"`
	Chart       *Chart       `json:"chart"`       // nil: no migration is under way
	Replication Replication  `json:"replication"` // of the database of the view tables
	InTheWay    *Transaction `json:"in_the_way"`  // the longest of them; nil: there is none
	Runs        []RunStatus  `json:"runs"`        // newest first: those at work, the last that failed, and the last of all
}

// Replication is how far standbys and subscribers are behind.
type Replication struct {
	Standbys int      `json:"standbys"`
	Seconds  *float64 `json:"lag_seconds"` // of the slowest; nil: there is none, or our role may not see it
	Bytes    *int64   `json:"lag_bytes"`   // the same
}

// Transaction is one that holds a lock which the cut or the cutover waits for, or one that is older than a minute.
type Transaction struct {
	PID     int        `json:"pid"` // 0: it is prepared
	Program string     `json:"program"`
	Since   *time.Time `json:"since"` // nil: our role may not see it
	State   string     `json:"state"` // active, idle in transaction, prepared …; empty: our role may not see it
}

// RunStatus is what of a Run anybody may know.
type RunStatus struct {
	ID      int64      `json:"id"`
	Command string     `json:"command"`
	From    int        `json:"from"`
	To      int        `json:"to"`
	Program string     `json:"program"`
	Host    string     `json:"host"`
	PID     int        `json:"pid"`
	Started time.Time  `json:"started"`
	Seen    time.Time  `json:"seen"`
	Ended   *time.Time `json:"ended"`
	Outcome Outcome    `json:"outcome"`
	Failed  string     `json:"failed"`
	Events  int64      `json:"events"`
	Rows    int64      `json:"rows"`
	Holding string     `json:"holding"`
}

// Overview reads all that a page shows, from the database alone: it does not matter which process asks. It takes no lock that
// anybody waits for. Its parts are read one after the other; while a migration ends, one may know of it and another not.
func (s *Schema) Overview(ctx context.Context) (*Overview, error) {
	st, m, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	for i := range st.Parked {
		st.Parked[i].Error = ""
	}
	o := &Overview{Status: st, Batches: []Batch{}, Runs: append([]RunStatus{}, st.runs...)}
	if err := s.db.QueryRow(ctx, "select clock_timestamp()").Scan(&o.At); err != nil {
		return nil, fmt.Errorf("asking for the time: %w", err)
	}
	if m != nil {
		failed, err := s.failedBatch(ctx, m)
		if err != nil {
			return nil, err
		}
		if o.Batches, o.Grid, err = s.batches(ctx, m, st.Migration.Workers, failed, o.At); err != nil {
			return nil, err
		}
		o.Chart = &st.Migration.chart
	}
	if o.Replication, err = s.replication(ctx); err != nil {
		return nil, err
	}
	o.InTheWay, err = s.inTheWay(ctx, longTransaction)
	return o, err
}

// replication asks what pg_stat_replication shows. To a role that may not see more than that there are standbys, lags are null; to
// one that may, a lag of time is null before it was measured.
func (s *Schema) replication(ctx context.Context) (r Replication, err error) {
	err = s.db.QueryRow(ctx, `
		select count(*), max(coalesce(extract(epoch from replay_lag)::float8, case when replay_lsn >= written then 0 end)),
			max(pg_wal_lsn_diff(written, replay_lsn)::bigint)
		from pg_catalog.pg_stat_replication,
			(select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as written) w`).Scan(&r.Standbys, &r.Seconds, &r.Bytes)
	if err != nil {
		return r, fmt.Errorf("looking for standbys: %w", err)
	}
	return r, nil
}

// inTheWay finds the oldest transaction that holds a lock on the event table with which writers, the cut or the cutover conflict, or
// that is as old as long, and so keeps vacuum from cleaning up. Our own workers only read events, for as long as that takes.
func (s *Schema) inTheWay(ctx context.Context, long time.Duration) (*Transaction, error) {
	source, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.events.Query(ctx, `
		with locked as (
			select distinct virtualtransaction, pid
			from pg_catalog.pg_locks
			where locktype = 'relation'
			  and granted
			  and database = (select oid from pg_catalog.pg_database where datname = current_database())
			  and mode not in ('AccessShareLock', 'RowShareLock')
			  and relation in (`+pg.Tree("pg_catalog.unnest($1::oid[])")+`)
		)
		select coalesce(pid, 0), program, since, state
		from (
			select a.pid, coalesce(a.application_name, '') as program, a.xact_start as since, coalesce(a.state, '') as state
			from pg_catalog.pg_stat_activity a
			where a.datname = current_database()
			  and a.pid <> pg_backend_pid()
			  and (exists (select from locked l where l.pid = a.pid)
				or a.xact_start < clock_timestamp() - $2::interval
					and not (a.application_name <> '' and a.application_name = current_setting('application_name')))
			union all
			select null, p.owner::text, p.prepared, 'prepared'
			from pg_catalog.pg_prepared_xacts p
			where p.database = current_database()
		) t
		order by since nulls first
		limit 1`, source.Relations(), long)
	var t Transaction
	if err == nil {
		t, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Transaction])
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking for transactions: %w", err)
	}
	return &t, nil
}

// lookBack bounds how many runs are looked through; there may be one for every catch-up of years.
const lookBack = 1000

// lastRuns lists the runs at work, the last 5 that failed and the last 10 of all. Bookkeeping of an older Projector has none.
func (s *Schema) lastRuns(ctx context.Context) ([]RunStatus, error) {
	list, err := pg.Collect(ctx, s.db, pgx.RowToStructByPos[RunStatus], s.sql(`
		select id, command, from_version, to_version, program, host, pid, started_at, seen_at, ended_at, became, failed, events, rows, holding
		from (
			select *, row_number() over (order by id desc) as nth, row_number() over (partition by became order by id desc) as nth_of_those
			from (select *, `+outcome+` as became from %SCHEMA%.projector_runs order by id desc limit $1) last
		) r
		where became = 'working' or nth <= 10 or became = 'failed' and nth_of_those <= 5
		order by id desc`), lookBack)
	switch {
	case pg.IsUndefined(err):
		return []RunStatus{}, nil
	case err != nil:
		return nil, fmt.Errorf("reading the last runs: %w", err)
	}
	return list, nil
}

// failedBatch is the batch that the migration's last run failed at; 0 if there is none.
func (s *Schema) failedBatch(ctx context.Context, m *migration) (number int, err error) {
	err = s.db.QueryRow(ctx, s.sql(`
		select coalesce(failed_batch, 0)
		from (select * from %SCHEMA%.projector_runs order by id desc limit $2) last
		where migration_id = $1 and ended_at is not null
		order by ended_at desc, id desc
		limit 1`), m.Migration, lookBack).Scan(&number)
	switch {
	case errors.Is(err, pgx.ErrNoRows), pg.IsUndefined(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("looking for the batch that failed: %w", err)
	}
	return number, nil
}
