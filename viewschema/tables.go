package viewschema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// makeTables creates and records the tables that the plan replays, records those that it changes otherwise, and has the
// projections check that their models and queries fit.
func (s *Schema) makeTables(ctx context.Context, tx pgx.Tx, plan *Plan, m *migration, source *eventstore.Reader) error {
	if err := s.recordTables(ctx, tx, m.Migration, plan.Tables); err != nil {
		return err
	}
	suffix := versionSuffix(plan.To)
	if err := s.createTables(ctx, tx, names(plan.replayed()), suffix); err != nil {
		return err
	}
	for _, t := range s.indexedFirst(plan) {
		if f, ok := s.def.files[t+".indexes.sql"]; ok {
			if err := s.makeIndexes(ctx, tx, f, names(plan.replayed()), suffix); err != nil {
				return err
			}
		}
	}
	if err := s.shield(ctx, tx, plan); err != nil {
		return err
	}
	if err := s.makeSideTables(ctx, tx, plan, m); err != nil {
		return err
	}
	return fits(ctx, tx, s.projections(plan, suffix), source)
}

// recordTables notes what a migration does with tables.
func (s *Schema) recordTables(ctx context.Context, tx pgx.Tx, migration int64, tables []TableChange) error {
	var kinds, projectors, built []string
	for _, t := range tables {
		kinds, projectors, built = append(kinds, string(t.Kind)), append(projectors, t.Projector), append(built, t.Built)
	}
	_, err := tx.Exec(ctx, s.sql(`
		insert into %SCHEMA%.projector_tables (migration_id, table_name, change, projector, built_name)
		select $1::bigint, name, change, nullif(projector, ''), nullif(built, '')
		from rows from (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::text[]), pg_catalog.unnest($5::text[]))
			as t (name, change, projector, built)`),
		pg.Once, migration, names(tables), kinds, projectors, built)
	if err != nil {
		return fmt.Errorf("recording the tables %s: %w", strings.Join(names(tables), ", "), err)
	}
	return nil
}

// shield takes all rights on new tables away that take the place of others: default privileges could give some to roles that
// may not read the table that is live.
func (s *Schema) shield(ctx context.Context, tx pgx.Tx, plan *Plan) error {
	successions, err := s.successions(ctx, tx, plan)
	if err != nil {
		return err
	}
	for _, p := range successions {
		if p.root() && p.live && p.made {
			if err := s.revokeAll(ctx, tx, p.built); err != nil {
				return err
			}
		}
		if p.live && p.built != "" {
			if err := hideRows(ctx, tx, p.relation(), p.builtRelation()); err != nil {
				return err
			}
		}
	}
	return nil
}

// hideRows has row security hide the rows of a table if it hides those of the live one: some may read every table of the server.
func hideRows(ctx context.Context, tx pgx.Tx, live, table string) error {
	var secured bool
	err := tx.QueryRow(ctx, "select coalesce((select relrowsecurity from pg_catalog.pg_class where oid = to_regclass($1)), false)", pg.Once, live).Scan(&secured)
	if err == nil && secured {
		_, err = tx.Exec(ctx, "alter table "+table+" enable row level security")
	}
	if err != nil {
		return fmt.Errorf("securing the rows of %s: %w", table, err)
	}
	return nil
}

// fits checks that the set's models and queries have the columns of its tables.
func fits(ctx context.Context, tx pgx.Tx, set *projections.Set, source *eventstore.Reader) error {
	err := replay.NewQueries(set, source).Bind(ctx, tx)
	for _, part := range append(set.Ordered(), set.Parallel()) {
		err = errors.Join(part.Rebuild().Begin(ctx, tx, nil), err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDefinition, err)
	}
	return nil
}

// createTables runs the tables' files.
func (s *Schema) createTables(ctx context.Context, tx pgx.Tx, tables []string, suffix string) error {
	for _, table := range tables {
		f := s.def.files[table+".sql"]
		if err := s.runFile(ctx, tx, f, suffix); err != nil {
			if !pg.IsConnectionLost(err) && ctx.Err() == nil && !errors.Is(err, ErrDefinition) {
				err = fmt.Errorf("%w: %w", ErrDefinition, err)
			}
			return err
		}
		if err := s.checkStrays(ctx, tx, f, tables, suffix); err != nil {
			if missing := s.checkMade(ctx, tx, suffix, table); missing != nil { // it may be in another schema
				return missing
			}
			return err
		}
	}
	if err := s.checkMade(ctx, tx, suffix, tables...); err != nil {
		return err
	}
	unlogged, err := s.unlogged(ctx, tx, suffixed(tables, suffix)...)
	if err == nil && len(unlogged) > 0 {
		err = fmt.Errorf("%w: the SQL files make %s unlogged: a crash of the server empties it, and %s", ErrDefinition, strings.Join(unlogged, ", "), notAgain)
	}
	return err
}

func suffixed(tables []string, suffix string) []string {
	list := make([]string, len(tables))
	for i, t := range tables {
		list[i] = t + suffix
	}
	return list
}

// checkMade looks whether the tables are there that their files were to make.
func (s *Schema) checkMade(ctx context.Context, tx pgx.Tx, suffix string, tables ...string) error {
	made := suffixed(tables, suffix)
	exist, err := s.existing(ctx, tx, made...)
	if err != nil {
		return err
	}
	for i, table := range made {
		if !slices.Contains(exist, table) {
			return fmt.Errorf("%w: %s.sql ran, but there is no table %s afterwards; leave schema names out of it", ErrDefinition, tables[i], pg.Table(s.def.Schema, table))
		}
	}
	return nil
}

// notAgain is why view tables may not be unlogged.
const notAgain = "the ledger says that its events were replayed: they would be lost without an error"

// unlogged lists which of the tables and their partitions are. To set them logged after they are filled would take more WAL
// than to fill them logged; docs/scaling.md has numbers.
func (s *Schema) unlogged(ctx context.Context, q pg.Querier, tables ...string) ([]string, error) {
	qualified := make([]string, len(tables))
	for i, t := range tables {
		qualified[i] = pg.Table(s.def.Schema, t)
	}
	list, err := pg.Collect(ctx, q, pgx.RowTo[string], `
		with recursive ours (id) as (
			select to_regclass(t)::oid from pg_catalog.unnest($1::text[]) t
			union
			select i.inhrelid from pg_catalog.pg_inherits i join ours o on o.id = i.inhparent
		)
		select pg_catalog.format('%I.%I', n.nspname, c.relname)
		from ours o
		join pg_catalog.pg_class c on c.oid = o.id
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where c.relpersistence = 'u'
		order by 1`, pg.Once, qualified)
	if err != nil {
		return nil, fmt.Errorf("looking for unlogged tables: %w", err)
	}
	return list, nil
}

// refuseUnlogged refuses tables that somebody has made unlogged after they were filled, or that were so before.
func (s *Schema) refuseUnlogged(ctx context.Context, q pg.Querier, r *refusal, tables ...string) error {
	list, err := s.unlogged(ctx, q, tables...)
	for _, t := range list {
		r.add("table %[1]s is unlogged: a crash of the server empties it, and %[2]s; if the server has not crashed since it is so, type: alter table %[1]s set logged",
			t, notAgain)
	}
	return err
}

// ensureLogged refuses bookkeeping that somebody has made unlogged: without a batch, nothing is left to do, and without an id above the
// cut, its event is applied again.
func (s *Schema) ensureLogged(ctx context.Context, q pg.Querier) error {
	list, err := pg.Collect(ctx, q, pgx.RowTo[string], `
		select pg_catalog.format('%I.%I', n.nspname, c.relname)
		from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relkind = 'r' and c.relname like 'projector\_%' and c.relpersistence = 'u'
		order by 1`, pg.Once, s.def.Schema)
	if err != nil {
		return fmt.Errorf("looking for unlogged bookkeeping: %w", err)
	}
	r := &refusal{}
	for _, t := range list {
		r.add("table %[1]s is unlogged: a crash of the server empties it, and events would be lost or applied again without an error; "+
			"if the server has not crashed since it is so, type: alter table %[1]s set logged; if it has, type: migrate abort", t)
	}
	return r.orNil()
}

// checkStrays refuses what a file has made besides the table and what is dropped with it: an abort would leave it behind,
// and the cutover would leave it with the name that it has now. tables are those that tx may have made.
func (s *Schema) checkStrays(ctx context.Context, tx pgx.Tx, f sqlFile, tables []string, suffix string) error {
	made := make([]string, len(tables))
	for i, t := range tables {
		made[i] = pg.Table(s.def.Schema, t+suffix)
	}
	strays, err := findStrays(ctx, tx, made, "")
	if err == nil && len(strays) > 0 {
		var citus bool
		if citus, err = pg.HasCitus(ctx, tx); citus { // shards on this node are dropped with their table
			strays, err = findStrays(ctx, tx, made, "and not (d.classid = 'pg_class'::regclass and pg_catalog.relation_is_a_known_shard(d.objid::regclass))")
		}
	}
	if err != nil {
		return fmt.Errorf("looking for what %s has made: %w", f.name, err)
	}
	if len(strays) > 0 {
		return fmt.Errorf("%w: %s makes %s, which is not dropped with its table; create it beforehand, outside of the view schema's files",
			ErrDefinition, f.name, strings.Join(strays, ", "))
	}
	return nil
}

// findStrays lists what tx has made that is not dropped with one of the tables.
func findStrays(ctx context.Context, tx pgx.Tx, tables []string, condition string) ([]string, error) {
	// Everything that lives in a schema depends on it, unless it is a part of something else that does. What we see although
	// its transaction is in progress is ours; a savepoint has an id of its own, above the transaction's, which has age 0.
	return pg.Collect(ctx, tx, pgx.RowTo[string], `
		with recursive ours (classid, objid) as (
			select 'pg_class'::regclass::oid, to_regclass(t)::oid from pg_catalog.unnest($1::text[]) t
			union
			select d.classid, d.objid
			from pg_catalog.pg_depend d join ours o on d.refclassid = o.classid and d.refobjid = o.objid
			where d.deptype in ('a', 'i')
		)
		select pg_describe_object(d.classid, d.objid, 0)
		from pg_catalog.pg_depend d
		where d.refclassid = 'pg_namespace'::regclass
		  and d.deptype = 'n'
		  and case when age(d.xmin) <= 0 then pg_xact_status((pg_current_xact_id()::text::int8 - age(d.xmin))::text::xid8) = 'in progress' end
		  and not exists (select from ours o where o.classid = d.classid and o.objid = d.objid)
		  `+condition+`
		order by 1`, pg.Once, tables)
}
