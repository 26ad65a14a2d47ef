package viewschema

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Severity says what a finding asks for.
type Severity string

// The severities of a Finding.
const (
	SeverityFit  Severity = "fit"
	SeverityNote Severity = "note" // slower or less comfortable than it could be
	SeverityMend Severity = "mend" // a migration would fail, wait, or harm others
)

// Finding is something about the database and its server, and what to do about it.
type Finding struct {
	About    string   `json:"about"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Remedy   string   `json:"remedy,omitempty"` // SQL, a setting, or a command
}

// Doctor looks at what a migration needs, and at what would be in its way at this moment: the plan's hazards, rights, space,
// connections, settings, long transactions, work on the event table, replication, foreign keys that a cutover left not valid. Each thing that it looks at is a finding, if
// only to say that it is fit. It touches nothing and takes no lock that anybody waits for. The error is that the database cannot
// be read, or ErrDefinition.
func (s *Schema) Doctor(ctx context.Context) ([]Finding, error) {
	return s.examine(ctx, longTransaction)
}

// longTransaction is how old a transaction has to be to be told of.
const longTransaction = time.Minute

func (s *Schema) examine(ctx context.Context, long time.Duration) ([]Finding, error) {
	plan, err := s.Plan(ctx)
	if err != nil {
		return nil, err
	}
	findings := plan.findings()
	space, err := s.examineSpace(ctx, plan)
	if err != nil {
		return nil, err
	}
	findings = append(findings, space...)
	source, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	relation := source.Mapping().Relation
	for _, c := range []struct {
		about string
		q     pg.Querier
		sql   string
		args  []any
	}{
		{"rights", s.db, rightsCheck, []any{s.def.Schema}},
		{"connections", s.db, connectionsCheck, []any{2*s.opts.Workers + 4}},
		{"settings", s.db, settingsCheck, nil},
		{"transactions", s.events, transactionsCheck, []any{long}},
		{"event table", s.events, tableCheck, []any{relation}},
		{"replication", s.db, replicationCheck, nil},
		{"foreign keys", s.db, foreignKeysCheck, []any{s.def.Schema, tablesOf(s.def.Projectors...)}},
	} {
		found, err := check(ctx, c.q, c.about, c.sql, c.args...)
		if err != nil {
			return nil, fmt.Errorf("looking at %s: %w", c.about, err)
		}
		findings = append(findings, found...)
	}
	return findings, nil
}

// check runs a query whose rows are findings. That there are none is one, too.
func check(ctx context.Context, q pg.Querier, about, sql string, args ...any) (found []Finding, err error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	f := Finding{About: about}
	_, err = pgx.ForEachRow(rows, []any{&f.Severity, &f.Text, &f.Remedy}, func() error {
		found = append(found, f)
		return nil
	})
	if len(found) == 0 {
		found = []Finding{{About: about, Severity: SeverityFit, Text: "nothing is in the way"}}
	}
	return found, err
}

// findings are the plan's hazards.
func (p *Plan) findings() (list []Finding) {
	switch {
	case p.Nothing():
		return []Finding{{About: "plan", Severity: SeverityFit, Text: fmt.Sprintf("the database is at version %d, the definition's", p.To)}}
	case len(p.Hazards) == 0:
		return []Finding{{About: "plan", Severity: SeverityFit, Text: fmt.Sprintf("nothing stands in the way of version %d", p.To)}}
	}
	for _, h := range p.Hazards {
		f := Finding{About: "plan", Severity: SeverityNote, Text: h.Text}
		if h.Blocks != "" {
			f.Severity, f.Text = SeverityMend, "this blocks "+string(h.Blocks)+": "+h.Text
		}
		list = append(list, f)
	}
	return list
}

// The checks yield severity, text and remedy.
const (
	rightsCheck = `
		select 'mend', pg_catalog.format('our role %I may not create in schema %I, which is there', current_user, nspname),
			pg_catalog.format('grant create, usage on schema %I to %I', nspname, current_user)
		from pg_catalog.pg_namespace
		where nspname = $1 and not has_schema_privilege(oid, 'create, usage')
		union all
		select 'mend', pg_catalog.format('our role %I may not create schema %I in this database', current_user, $1::text),
			pg_catalog.format('create schema %I authorization %I', $1::text, current_user)
		where not exists (select from pg_catalog.pg_namespace where nspname = $1) and not has_database_privilege(current_database(), 'create')
		union all
		select 'note', pg_catalog.format('our role %I sees of other roles'' sessions only that they are there, not since when', current_user),
			pg_catalog.format('grant pg_read_all_stats to %I', current_user)
		where not pg_has_role('pg_read_all_stats', 'usage')`

	connectionsCheck = `
		select case when free < $1::int then 'mend' else 'note' end,
			pg_catalog.format('%s of %s connections are free, and %s workers take up to %s', free, most, ($1::int - 4) / 2, $1),
			'fewer --workers, or a larger max_connections'
		from (
			select current_setting('max_connections')::int as most,
				current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
					- (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend') as free
		) c
		where free < 2 * $1::int`

	settingsCheck = `
		select 'note', 'maintenance_work_mem is ' || current_setting('maintenance_work_mem') || ', with which indexes of large tables take several passes',
			'alter role ' || quote_ident(current_user) || ' set maintenance_work_mem = ''512MB'''
		where pg_size_bytes(current_setting('maintenance_work_mem')) < 64 * 1024 * 1024
		union all
		select 'note', 'max_wal_size is ' || current_setting('max_wal_size') || ': a rebuild makes checkpoints that often, each of which writes whole pages again',
			'alter system set max_wal_size = ''4GB'''
		where pg_size_bytes(current_setting('max_wal_size')) < 1024::bigint * 1024 * 1024
		union all
		select 'note', 'deadlock_timeout is ' || current_setting('deadlock_timeout') || ', and a cutover holds off writers for at most three quarters of it',
			'alter role ' || quote_ident(current_user) || ' set deadlock_timeout = ''1s'''
		where extract(epoch from current_setting('deadlock_timeout')::interval) < 0.6
		union all
		select 'mend', 'fsync is off: a crash of the machine can lose what was committed', 'alter system set fsync = on'
		where current_setting('fsync') = 'off'
		union all
		select 'note', 'track_activities is off: who is in the way cannot be told', 'alter system set track_activities = on'
		where current_setting('track_activities') = 'off'`

	// Who is in a transaction for long may have written events, which the first cut waits for, and keeps vacuum from cleaning up.
	transactionsCheck = `
		select case when wrote then 'mend' else 'note' end,
			pg_catalog.format('pid %s (%s, user %s, %s) is in a transaction since %s%s', pid, coalesce(nullif(application_name, ''), 'no name'), usename, state,
				to_char(xact_start, 'YYYY-MM-DD HH24:MI:SS'), case when wrote then ', and has written: if events, migrate online waits for it' else '' end),
			pg_catalog.format('end it, or select pg_terminate_backend(%s)', pid)
		from (
			select *, backend_xid is not null as wrote
			from pg_catalog.pg_stat_activity
			where backend_type = 'client backend' and xact_start < now() - $1::interval and datname = current_database() and pid <> pg_backend_pid()
		) a
		union all
		select 'mend', pg_catalog.format('prepared transaction %L of %s, since %s: what it has locked stays locked, and migrate online may wait for it', gid, owner,
				to_char(prepared, 'YYYY-MM-DD HH24:MI:SS')),
			pg_catalog.format('commit prepared %1$L, or rollback prepared %1$L', gid)
		from pg_catalog.pg_prepared_xacts
		where database = current_database()`

	tableCheck = `
		select case l.mode when 'ShareUpdateExclusiveLock' then 'note' else 'mend' end,
			pg_catalog.format('%s holds %s on %s: %s', coalesce(nullif(a.application_name, ''), a.backend_type), l.mode, l.relation::regclass,
				case l.mode when 'ShareUpdateExclusiveLock' then 'a cutover waits until vacuum, or whatever it is, has ended' else 'writers wait for it, and so do we' end),
			pg_catalog.format('wait for pid %s', l.pid)
		from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid
		where l.locktype = 'relation' and l.granted and l.relation = to_regclass($1) and l.pid <> pg_backend_pid()
		  and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
		  and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`

	replicationCheck = `
		select case when active then 'note' else 'mend' end,
			pg_catalog.format('replication slot %I, %s, keeps %s of WAL%s', slot_name, case when active then 'active' else 'which nobody reads' end,
				pg_size_pretty(held), case when active then '' else ', and all that a rebuild writes' end),
			case when active then 'watch it while a rebuild runs' else pg_catalog.format('select pg_drop_replication_slot(%L), if its reader will not come back', slot_name) end
		from (
			select *, pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end, restart_lsn)::bigint as held
			from pg_catalog.pg_replication_slots
		) s
		where not active or held > 1024::bigint * 1024 * 1024
		union all
		select 'note', pg_catalog.format('standby %s is %s behind', coalesce(nullif(application_name, ''), client_addr::text), pg_size_pretty(lag)),
			'a rebuild makes it worse; wait until it has caught up'
		from (select *, pg_wal_lsn_diff(sent_lsn, replay_lsn)::bigint as lag from pg_catalog.pg_stat_replication) r
		where lag > 64 * 1024 * 1024
		union all
		select 'mend', 'this server is a standby: nothing can be written', 'name the primary in --database-url'
		where pg_is_in_recovery()`

	foreignKeysCheck = `
		select 'note', pg_catalog.format('foreign key %I of %s, which references %s, is not valid: it holds for rows that were written since it was made', conname,
				conrelid::regclass, confrelid::regclass),
			pg_catalog.format('alter table %s validate constraint %I', conrelid::regclass, conname)
		from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.confrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where k.contype = 'f' and not k.convalidated and coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) and n.nspname = $1 and c.relname = any ($2)
		order by 2`
)
