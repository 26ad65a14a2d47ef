package viewschema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// Rollback takes the last cutover back, minutes or days later: it catches the archived tables up, with the projectors of the
// definition, which has to be that of the version before, and cuts over to them as MigrateOffline does, with the same guarantees.
// What was live is archived, and so a rollback can be taken back in the same way, with the definition of the later version.
//
// It is a migration that begins as built. While it is under way, CatchUp and MigrateOffline know nothing of it: Rollback goes on
// with it, and Abort ends it, and leaves the archived tables, and the ledger that tells which events they have.
//
// Errors are those of MigrateOffline. ErrRefused beforehand: the last migration altered tables in place, or replayed none; its
// archived tables are gone; the definition's target is not the version before, or the definition not the one that version had.
func (s *Schema) Rollback(ctx context.Context) (Result, error) {
	began := time.Now()
	if err := s.ensureInit(ctx, false); err != nil {
		return Result{}, err
	}
	m, err := s.underWay(ctx, s.db)
	if err != nil {
		return Result{}, err
	}
	switch {
	case m == nil:
		if err := s.takeBack(ctx); err != nil {
			return Result{}, err
		}
	case !m.rollback || m.to != s.Target():
		return Result{}, fmt.Errorf("%w: to version %d (%s); finish it, or type: migrate abort", ErrOtherMigration, m.to, m.state)
	case m.state != replay.Built:
		return Result{}, fmt.Errorf("%w: the rollback to version %d is being aborted; finish it with: migrate abort", ErrState, m.to)
	}
	if m, err = s.mine(ctx, s.db); err != nil {
		return Result{}, err
	}
	if m == nil {
		return Result{}, fmt.Errorf("%w: another process has ended the rollback; type: status", ErrState)
	}
	plan, err := s.planBack(ctx, m)
	if err != nil {
		return Result{}, err
	}
	return s.record(ctx, commandRollback, m.from, m.to, func(ctx context.Context, r *run) (Result, error) {
		result, err := r.cutOver(ctx, m, plan)
		result.Elapsed = time.Since(began)
		return result, err
	})
}

// takeBack begins the rollback: it records the migration and the tables, and moves the ledger to it. A crash leaves all or
// nothing of it.
func (s *Schema) takeBack(ctx context.Context) error {
	last, err := s.lastMigration(ctx)
	if err != nil {
		return err
	}
	if err := s.checkFormer(ctx, last); err != nil {
		return err
	}
	now, err := s.fingerprint(ctx, s.db)
	if err != nil {
		return err
	}
	var id int64
	err = s.inTx(ctx, pg.PointTakeBack, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, s.sql(`
			insert into %SCHEMA%.projector_migrations (from_version, to_version, state, cut, cut_reason, event_tables, fingerprint, built_at, takes_back)
			select to_version, from_version, 'built', cut, cut_reason, event_tables, $2, now(), id
			from %SCHEMA%.projector_migrations
			where id = $1 and state = 'active'
			for update
			returning id`), last.Migration, now).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: another process has cut over meanwhile; type: status", ErrState)
		}
		if err != nil {
			return err
		}
		if err := s.inheritLane(ctx, tx, last, id); err != nil {
			return err
		}
		if err := s.moveLedger(ctx, tx, last.Migration, id); err != nil {
			return err
		}
		var changes []TableChange
		for _, t := range last.tables {
			change := TableChange{Table: t.name, Kind: projector.KindReplay, Projector: s.ownerOf(t.name), Built: t.archived}
			if t.archived == "" {
				change.Kind = projector.KindDrop
			}
			changes = append(changes, change)
			if t.archived != "" {
				if err := s.revokeAll(ctx, tx, t.archived); err != nil {
					return err
				}
			}
		}
		return s.recordTables(ctx, tx, id, changes)
	})
	if _, constraint, ok := pg.UniqueViolation(err); ok && constraint == "projector_one_migration" {
		return fmt.Errorf("%w: it was begun just now; type: status", ErrOtherMigration)
	}
	if err != nil {
		return fmt.Errorf("beginning the rollback to version %d: %w", s.Target(), err)
	}
	s.opts.Log.Info().Int("from", last.to).Int("to", last.from).Msg("rollback begun")
	return nil
}

// inheritLane makes the lane of a rollback that brings tables back which are replayed in the order of the store. All that there was
// when they were archived is in them, since writers were held off then.
func (s *Schema) inheritLane(ctx context.Context, tx pgx.Tx, last *lastMigration, to int64) error {
	ordered := func(t formerTable) bool {
		p := s.def.owners[t.name]
		return t.archived != "" && p != nil && p.Order != projections.ByAggregate
	}
	if !slices.ContainsFunc(last.tables, ordered) {
		return nil
	}
	_, err := tx.Exec(ctx, s.sql(`
		insert into %SCHEMA%.projector_lanes (migration_id, position)
		select $2, coalesce($3, greatest(m.cut, (select max(position) from %SCHEMA%.projector_replayed_ids where migration_id = m.id)))
		from %SCHEMA%.projector_migrations m
		where m.id = $1`), last.Migration, to, last.lane)
	if err != nil {
		return fmt.Errorf("inheriting the lane: %w", err)
	}
	return nil
}

// moveLedger gives one migration's ledger to another one. The cut of the first is not touched.
func (s *Schema) moveLedger(ctx context.Context, tx pgx.Tx, from, to int64) error {
	if _, err := tx.Exec(ctx, s.sql("update %SCHEMA%.projector_replayed_ids set migration_id = $2 where migration_id = $1"), from, to); err != nil {
		return fmt.Errorf("moving the ledger: %w", err)
	}
	return nil
}

// giveBack ends a rollback that is aborted: the archived tables stay, and the ledger that tells what they have by now goes back to
// the migration that archived them.
func (s *Schema) giveBack(ctx context.Context, tx pgx.Tx, m *migration) error {
	var last int64
	err := tx.QueryRow(ctx, s.sql(`
		update %SCHEMA%.projector_migrations l
		set cut = r.cut, event_tables = r.event_tables
		from %SCHEMA%.projector_migrations r
		where r.id = $1 and l.id = r.takes_back
		returning l.id`), m.Migration).Scan(&last)
	if err != nil {
		return fmt.Errorf("giving the ledger back: %w", err)
	}
	_, err = tx.Exec(ctx, s.sql(`
		insert into %SCHEMA%.projector_lanes (migration_id, position)
		select $2, position from %SCHEMA%.projector_lanes where migration_id = $1
		on conflict (migration_id) do update set position = excluded.position`), m.Migration, last)
	if err != nil {
		return fmt.Errorf("giving the lane back: %w", err)
	}
	return s.moveLedger(ctx, tx, m.Migration, last)
}

// ownerOf returns the name of the projector that has the table; empty: none has.
func (s *Schema) ownerOf(table string) string {
	if p, ok := s.def.owners[table]; ok {
		return p.Name
	}
	return ""
}

// lastMigration is the active one, with what became of its tables.
type lastMigration struct {
	migration
	before   fingerprint // of the version before it; nil: no record is left
	complete bool        // its ledger had every event when it was cut over, and so had the tables that it archived
	parked   int         // aggregates that the version before left out
	lane     *int64      // the position to which these were replayed in the order of the store; nil: see complete
	tables   []formerTable
}

type formerTable struct {
	name     string
	change   projector.Kind
	archived string // what the former table is called; empty: there was none, or it is gone
	gone     bool   // it was dropped since
}

// lastMigration reads what a rollback would take back, and refuses what has nothing to go back to.
func (s *Schema) lastMigration(ctx context.Context) (*lastMigration, error) {
	last := &lastMigration{}
	last.Schema = s.def.Schema
	err := s.db.QueryRow(ctx, s.sql(`
		select m.id, m.from_version, m.to_version, m.complete, m.fingerprint,
			(select count(*) from %SCHEMA%.projector_parked_events where migration_id = (
				select p.id from %SCHEMA%.projector_migrations p where p.state = 'archived' and p.to_version = m.from_version order by p.id desc limit 1)),
			(select l.position from %SCHEMA%.projector_lanes l where l.migration_id = m.id),
			(select p.fingerprint from %SCHEMA%.projector_migrations p where p.state = 'archived' and p.to_version = m.from_version order by p.id desc limit 1)
		from %SCHEMA%.projector_migrations m
		where m.state = 'active'`)).Scan(&last.Migration, &last.from, &last.to, &last.complete, &last.fingerprint, &last.parked, &last.lane, &last.before)
	switch {
	case errors.Is(err, pgx.ErrNoRows), pg.IsUndefined(err):
		return nil, fmt.Errorf("%w: the database is at no version yet", ErrRefused)
	case err != nil:
		return nil, fmt.Errorf("reading the last migration: %w", err)
	case last.from == 0:
		return nil, fmt.Errorf("%w: version %d is the first one; there is nothing to go back to", ErrRefused, last.to)
	case last.from != s.Target():
		return nil, fmt.Errorf("%w: from version %d, a rollback leads to version %d, and this definition's target is %d; use the release that has version %d",
			ErrRefused, last.to, last.from, s.Target(), last.from)
	}
	rows, err := s.db.Query(ctx, s.sql(`
		select t.table_name, t.change, coalesce(t.archived_name, ''), t.archived_name is not null and c.oid is null
		from %SCHEMA%.projector_tables t
		left join pg_catalog.pg_class c on c.relname = t.archived_name and c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $2)
		where t.migration_id = $1
		order by t.table_name`), last.Migration, s.def.Schema)
	if err != nil {
		return nil, fmt.Errorf("reading the last migration's tables: %w", err)
	}
	last.tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t formerTable, err error) {
		err = row.Scan(&t.name, &t.change, &t.archived, &t.gone)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the last migration's tables: %w", err)
	}
	return last, nil
}

// checkFormer refuses a rollback that could not bring the version before back as it was.
func (s *Schema) checkFormer(ctx context.Context, last *lastMigration) error {
	r := &refusal{}
	if last.parked > 0 {
		r.add("version %d left out %s, and there is no record of which tables they are missing in; the way on is a next version", last.from, parkedAggregates(last.parked))
	}
	former := map[string]bool{}
	for _, t := range last.tables {
		if t.archived != "" && !t.gone {
			if err := s.checkTriggers(ctx, r, t); err != nil {
				return err
			}
			if err := s.refuseUnlogged(ctx, s.db, r, t.archived); err != nil {
				return err
			}
		}
		switch {
		case t.change == projector.KindAlter:
			r.add("version %d altered table %s in place, which cannot be taken back; the way on is a next version", last.to, t.name)
		case t.gone:
			way := "the way on is a next version"
			if last.from > last.to { // it was rolled back
				way = "to make that version anew, type: clean --older-than 0s, and migrate online"
			}
			r.add("table %s is gone, which version %d had; %s", t.archived, last.from, way)
		case t.archived != "" && s.def.owners[t.name] == nil:
			r.add("no projector of this definition owns table %s, which version %d had", t.name, last.from)
		case t.archived != "" && !last.complete && (last.lane == nil || s.def.owners[t.name].Order == projections.ByAggregate):
			r.add("version %d has replayed no projector by aggregate, so it has no record of which events table %s holds; the way on is a next version", last.to, t.archived)
		}
		former[t.name] = t.archived != ""
	}
	for _, p := range s.def.Projectors {
		has := func(t projections.Table) bool { return former[t.TableName()] }
		if !slices.ContainsFunc(p.Tables, has) {
			continue
		}
		for _, t := range p.Tables {
			if !has(t) {
				r.add("projector %s writes table %s, too, of which version %d has archived none", p.Name, t.TableName(), last.to)
			}
		}
	}
	if err := r.orNil(); err != nil {
		return err
	}
	now, err := s.fingerprint(ctx, s.db)
	if err != nil {
		return err
	}
	for _, part := range []string{"event mapping", "event table", "event database"} { // whose events the ledger has
		if last.fingerprint[part] != now[part] {
			r.add("the %s was another one for version %d, whose record of events is to be gone on with: %q, and it is %q; the way on is a next version",
				part, last.to, last.fingerprint[part], now[part])
		}
	}
	if err := r.orNil(); err != nil {
		return err
	}
	if diff := last.before.ofRelease().diff(now.ofRelease()); last.before != nil && diff != "" {
		return fmt.Errorf("%w: this definition is not the one that version %d was made with: %s; use the release that had that version", ErrRefused, last.from, diff)
	}
	return nil
}

// checkTriggers refuses a table whose triggers would run again for the events that it is caught up with. Those that were made
// beside its SQL files have left it when it was archived.
func (s *Schema) checkTriggers(ctx context.Context, r *refusal, t formerTable) error {
	triggers, err := pg.Collect(ctx, s.db, pgx.RowTo[string], `
		select tgname::text
		from pg_catalog.pg_trigger
		where tgrelid = $1::text::regclass and not tgisinternal and tgenabled <> 'D'
		order by 1`, pg.Table(s.def.Schema, t.archived))
	if err != nil {
		return fmt.Errorf("looking for the triggers of %s: %w", t.archived, err)
	}
	for _, name := range triggers {
		r.add("trigger %s of %s would run again for the events that the table lacks; drop or disable it, and make it anew after the rollback", name, t.archived)
	}
	return nil
}

// planBack is the plan of a rollback that was begun: what it recorded.
func (s *Schema) planBack(ctx context.Context, m *migration) (*Plan, error) {
	rows, err := s.db.Query(ctx, s.sql(`
		select table_name, change, coalesce(built_name, '')
		from %SCHEMA%.projector_tables
		where migration_id = $1
		order by table_name`), m.Migration)
	if err != nil {
		return nil, fmt.Errorf("reading the tables of the rollback: %w", err)
	}
	plan := &Plan{From: m.from, To: m.to, back: true, Projectors: []string{}, Tables: []TableChange{}, Omitted: []string{}}
	var t TableChange
	_, err = pgx.ForEachRow(rows, []any{&t.Table, &t.Kind, &t.Built}, func() error {
		change := t
		change.Archived = t.Table + versionSuffix(m.from)
		if owner := s.ownerOf(t.Table); t.Kind == projector.KindReplay && owner != "" {
			change.Projector = owner
			if !slices.Contains(plan.Projectors, owner) {
				plan.Projectors = append(plan.Projectors, owner)
			}
		}
		plan.Tables = append(plan.Tables, change)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the tables of the rollback: %w", err)
	}
	return plan, nil
}
