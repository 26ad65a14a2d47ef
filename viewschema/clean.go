package viewschema

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// ArchivedTable is a former view table that a cutover has renamed.
type ArchivedTable struct {
	Name       string    `json:"name"`
	Table      string    `json:"table"`   // its name while it was live
	Version    int       `json:"version"` // that it was live in last
	Archived   time.Time `json:"archived_at"`
	Partitions []string  `json:"partitions"` // that are dropped with it
	Bytes      int64     `json:"bytes"`
	Dependents []string  `json:"dependents"` // what keeps it from being dropped
	migration  int64
}

// ArchivedTables lists those that were archived longer ago than age, the oldest first. It touches nothing.
func (s *Schema) ArchivedTables(ctx context.Context, age time.Duration) ([]ArchivedTable, error) {
	if have, err := s.bookkeepingVersion(ctx, s.db); err != nil || have == 0 {
		return nil, err
	}
	rows, err := s.db.Query(ctx, s.sql(`
		select t.archived_name, t.table_name, m.from_version, m.active_at, parts.names, `+pg.TableSize("c.oid")+`,
			array(
				select distinct pg_describe_object(d.classid, d.objid, d.objsubid)
				from pg_catalog.pg_class p
				join pg_catalog.pg_depend d
				  on d.refclassid = 'pg_class'::regclass and d.refobjid = p.oid or d.refclassid = 'pg_type'::regclass and d.refobjid = p.reltype
				where p.oid = any (parts.ids)
				  and d.deptype = 'n'
				  and not (d.classid = 'pg_policy'::regclass and exists (select from pg_catalog.pg_policy o where o.oid = d.objid and o.polrelid = p.oid))
				  and not (d.classid = 'pg_constraint'::regclass and exists (select from pg_catalog.pg_constraint k where k.oid = d.objid and k.conrelid = any (parts.ids)))
				order by 1),
			m.id
		from %SCHEMA%.projector_tables t
		join %SCHEMA%.projector_migrations m on m.id = t.migration_id
		join pg_catalog.pg_namespace n on n.nspname = $1
		join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.archived_name
		cross join lateral (
			select array_agg(id) as ids, coalesce(array_agg(id::regclass::text order by id::regclass::text) filter (where id <> c.oid), '{}') as names
			from (`+pg.Partitions("c.oid")+`) tree
		) parts
		where m.state in ('active', 'archived')
		  and m.active_at < now() - $2::interval
		  and not exists (
			select
			from %SCHEMA%.projector_tables l join %SCHEMA%.projector_migrations n on n.id = l.migration_id
			where l.archived_name = t.archived_name and n.id > m.id or l.built_name = t.archived_name and n.state in ('building', 'built', 'aborting'))
		order by m.active_at, t.archived_name`), s.def.Schema, age)
	if err != nil {
		return nil, fmt.Errorf("listing the archived tables: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t ArchivedTable, err error) {
		err = row.Scan(&t.Name, &t.Table, &t.Version, &t.Archived, &t.Partitions, &t.Bytes, &t.Dependents, &t.migration)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the archived tables: %w", err)
	}
	return list, nil
}

// Clean drops archived tables, each in a transaction of its own, and returns those that it has dropped. One that something
// depends on is left: the list says what, and should anything come to depend on it later, PostgreSQL refuses. Dropping a table
// locks those that its foreign keys name, so each lock is asked for with a short time-out, again and again for Options.LockWait.
func (s *Schema) Clean(ctx context.Context, tables []ArchivedTable) (dropped []ArchivedTable, err error) {
	if err := s.ensureInit(ctx, false); err != nil {
		return nil, err
	}
	for _, t := range tables {
		if len(t.Dependents) > 0 {
			continue
		}
		if err := s.drop(ctx, t); err != nil {
			return dropped, fmt.Errorf("dropping table %s: %w", t.Name, err)
		}
		dropped = append(dropped, t)
	}
	return dropped, nil
}

func (s *Schema) drop(ctx context.Context, t ArchivedTable) error {
	deadline := time.Now().Add(s.opts.LockWait)
	for {
		err := s.inTx(ctx, pg.PointClean, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "select set_config('lock_timeout', $1, true)", pg.Milliseconds(lockTimeout)); err != nil {
				return err
			}
			// Whoever takes the last cutover back has the tables from here on, or finds them gone.
			if err := tx.QueryRow(ctx, s.sql("select from %SCHEMA%.projector_migrations where id = $1 for update"), t.migration).Scan(); err != nil {
				return err
			}
			var taken bool
			err := tx.QueryRow(ctx, s.sql(`
				select exists (select from %SCHEMA%.projector_migrations where takes_back = $1 and state in ('built', 'aborting'))`), t.migration).Scan(&taken)
			if err != nil {
				return err
			}
			if taken {
				return fmt.Errorf("%w: a rollback is under way, which brings it back", ErrOtherMigration)
			}
			if _, err := tx.Exec(ctx, "drop table if exists "+pg.Table(s.def.Schema, t.Name)); err != nil {
				return err
			}
			// The ledger tells which events the archived tables have, too; without them nobody asks for it any more.
			_, err = tx.Exec(ctx, s.sql(`
				delete from %SCHEMA%.projector_replayed_ids
				where migration_id = $1
				  and not exists (
					select
					from %SCHEMA%.projector_tables t join pg_catalog.pg_class c on c.relname = t.archived_name
					where t.migration_id = $1 and c.relnamespace = $2::text::regnamespace)`), t.migration, pgx.Identifier{s.def.Schema}.Sanitize())
			return err
		})
		if !pg.IsLockTimeout(err) || time.Now().After(deadline) {
			return err
		}
		s.opts.Log.Debug().Str("table", t.Name).Msg("a lock could not be had; trying again")
		if err := pg.Pause(ctx, lockTimeout); err != nil {
			return err
		}
	}
}
