package viewschema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// AbortDrops returns the tables that Abort would drop; none if no migration is under way, and if it is a rollback, whose tables stay.
func (s *Schema) AbortDrops(ctx context.Context) ([]TableStatus, error) {
	m, err := s.underWay(ctx, s.db)
	if err != nil || m == nil || m.rollback {
		return nil, err
	}
	tables, err := s.tableStatus(ctx)
	return slices.DeleteFunc(tables, func(t TableStatus) bool { return t.Role != "built" && t.Role != "partial" }), err
}

// Abort removes what the migration under way has made, whatever its target: its tables, unless it is a rollback, whose tables
// are archived ones, and its bookkeeping. The live
// tables and the current version stay as they are. It waits for the batches that workers have in flight; no new one
// begins. A crash in it leaves the migration "aborting": no work goes on, and Abort can be run again.
func (s *Schema) Abort(ctx context.Context) (Result, error) {
	if err := s.ensureInit(ctx, false); err != nil {
		return Result{}, err
	}
	m, err := s.underWay(ctx, s.db)
	if err != nil {
		return Result{}, err
	}
	if m == nil {
		current, err := s.CurrentVersion(ctx)
		return Result{From: current, To: current, State: replay.Active, Nothing: true}, err
	}
	return s.record(ctx, commandAbort, m.from, m.to, func(ctx context.Context, r *run) (Result, error) {
		r.migration.Store(m.Migration)
		return r.abort(ctx, m)
	})
}

func (s *Schema) abort(ctx context.Context, m *migration) (Result, error) {
	// First, so that workers stop: they would overtake us at the row for as long as they find batches.
	err := s.inTx(ctx, pg.PointAborting, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, s.sql("update %SCHEMA%.projector_migrations set state = 'aborting' where id = $1 and state in ('building', 'built')"), m.Migration)
		return err
	})
	if err != nil {
		return Result{}, fmt.Errorf("aborting the migration to version %d: %w", m.to, err)
	}
	err = pg.InTx(ctx, s.db, pg.PointAbort, func(tx pgx.Tx) error {
		if _, err := m.Own(ctx, tx, replay.Aborting); err != nil { // for as long as a batch takes; nobody waits behind us
			return err
		}
		if err := boundLocks(ctx, tx); err != nil {
			return err
		}
		if m.rollback {
			if err := s.giveBack(ctx, tx, m); err != nil {
				return err
			}
			return s.forget(ctx, tx, m)
		}
		return s.remove(ctx, tx, m)
	})
	if err != nil {
		return Result{}, fmt.Errorf("aborting the migration to version %d: %w", m.to, err)
	}
	return Result{From: m.from, To: m.to, State: replay.Aborting}, nil
}

// remove drops the tables that are recorded as built by the migration, and no other, and forgets it.
func (s *Schema) remove(ctx context.Context, tx pgx.Tx, m *migration) error {
	built, err := pg.Collect(ctx, tx, pgx.RowTo[string], s.sql(`
		select made.name
		from %SCHEMA%.projector_tables t, unnest(array[t.built_name, t.partial_name]) made (name)
		where t.migration_id = $1 and made.name is not null`), m.Migration)
	if err != nil {
		return err
	}
	for _, table := range built {
		if _, err := tx.Exec(ctx, "drop table if exists "+pg.Table(s.def.Schema, table)); err != nil {
			return fmt.Errorf("dropping table %s: %w", table, err)
		}
	}
	return s.forget(ctx, tx, m)
}

// forget deletes what the bookkeeping has about the migration.
func (s *Schema) forget(ctx context.Context, tx pgx.Tx, m *migration) error {
	for _, sql := range []string{
		"delete from %SCHEMA%.projector_replayed_ids where migration_id = $1",
		"delete from %SCHEMA%.projector_throttles where migration_id = $1",
		"delete from %SCHEMA%.projector_migrations where id = $1", // and its tables and batches
	} {
		if _, err := tx.Exec(ctx, s.sql(sql), m.Migration); err != nil {
			return err
		}
	}
	return nil
}
