package viewschema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// totals returns the accumulating tables that the plan replays, by name.
func (s *Schema) totals(plan *Plan) map[string]projections.TotalsTarget {
	byTable := map[string]projections.TotalsTarget{}
	for _, t := range s.projections(plan, versionSuffix(plan.To)).Totals() {
		byTable[t.Table] = t
	}
	return byTable
}

// merged returns the names of the plan's accumulating tables.
func (s *Schema) merged(plan *Plan) (list []string) {
	for _, t := range s.projections(plan, "").Totals() {
		list = append(list, t.Table)
	}
	return list
}

// makeSideTables makes the side tables of accumulating tables, for the partial rows of batches. It comes after all files have run, which would otherwise seem to have made these tables.
func (s *Schema) makeSideTables(ctx context.Context, tx pgx.Tx, plan *Plan, m *migration) error {
	for _, t := range s.projections(plan, versionSuffix(plan.To)).Totals() {
		if _, err := tx.Exec(ctx, t.CreatePartial()); err != nil {
			return fmt.Errorf("making the side table of %s: %w", t.Title, err)
		}
		_, err := tx.Exec(ctx, s.sql("update %SCHEMA%.projector_tables set partial_name = $3 where migration_id = $1 and table_name = $2"),
			pg.Once, m.Migration, t.Table, t.Partial)
		if err != nil {
			return fmt.Errorf("recording table %s: %w", t.Partial, err)
		}
		if err := s.revokeAll(ctx, tx, t.Partial); err != nil {
			return err
		}
		if err := hideRows(ctx, tx, pg.Table(s.def.Schema, t.Table), pg.Table(s.def.Schema, t.Partial)); err != nil {
			return err
		}
	}
	return nil
}

// merge adds the partial rows up and drops the side table. Nobody but workers whose batches are done has used it.
func (s *Schema) merge(ctx context.Context, tx pgx.Tx, m *migration, t projections.TotalsTarget) (rows int64, err error) {
	tag, err := tx.Exec(ctx, t.Merge())
	if err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, "drop table "+pg.Table(s.def.Schema, t.Partial)); err != nil {
		return 0, fmt.Errorf("dropping table %s: %w", t.Partial, err)
	}
	_, err = tx.Exec(ctx, s.sql("update %SCHEMA%.projector_tables set partial_name = null where migration_id = $1 and table_name = $2"),
		pg.Once, m.Migration, t.Table)
	return tag.RowsAffected(), err
}

// checkLast refuses columns with a last value where it is not known which event is the last one.
func checkLast(set *projections.Set, source *eventstore.Reader) error {
	r := &refusal{}
	for _, t := range set.Totals() {
		if column := t.LastBy(); column != "" && source.SharedPositions() {
			r.add("column %s of table %s has the last value by position, and in this store the events of a transaction share one; "+
				"take view:\"min\" or view:\"max\", or keep the value in a row of each aggregate", column, t.Table)
		}
	}
	return r.orNil()
}
