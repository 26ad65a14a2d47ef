package viewschema

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// hanging fills in what becomes of all that hangs on the live tables: what is carried over, what blocks the cutover, and what the new
// tables will be without. For that it looks at the new tables, and if there are none yet, makes them in a transaction that it
// rolls back.
func (s *Schema) hanging(ctx context.Context, plan *Plan) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // the tables, if it has made any; nothing else
	plan.unindexed = plan.UnderWay == replay.Building
	if plan.UnderWay == "" && !plan.blocked(StageOnline) {
		if err := s.rehearse(ctx, tx, plan); err != nil {
			return err
		}
	}
	all, err := s.checkCutover(ctx, tx, plan)
	for _, b := range all {
		if b.Problem == "" {
			plan.Carried = append(plan.Carried, b.What)
		}
	}
	if err := plan.refusedBy(StageOffline, err); err != nil {
		return err
	}
	notes, err := s.lacking(ctx, tx, plan, plan.UnderWay == replay.Built)
	for _, text := range notes {
		plan.Hazards = append(plan.Hazards, Hazard{Text: text})
	}
	return err
}

func (p *Plan) blocked(stage Stage) bool {
	for _, h := range p.Hazards {
		if h.Blocks == stage {
			return true
		}
	}
	return false
}

// rehearse makes the new tables with their indexes in tx, if they will take the place of others. A file that PostgreSQL refuses is a
// hazard. If a lock cannot be had, for a foreign key of the new table, it makes none.
func (s *Schema) rehearse(ctx context.Context, tx pgx.Tx, plan *Plan) error {
	replaces := false
	for _, t := range plan.replayed() {
		live, err := s.exists(ctx, tx, t.Table)
		if err != nil {
			return err
		}
		replaces = replaces || live
	}
	if !replaces {
		return nil
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := savepoint.Exec(ctx, "select set_config('lock_timeout', $1, true)", milliseconds(lockTimeout)); err != nil {
		return err
	}
	suffix, tables := versionSuffix(plan.To), names(plan.replayed())
	err = s.createTables(ctx, savepoint, tables, suffix)
	for _, t := range tables {
		if f, ok := s.def.files[t+".indexes.sql"]; ok && err == nil {
			err = s.makeIndexes(ctx, savepoint, f, tables, suffix)
		}
	}
	if err == nil {
		return savepoint.Commit(ctx)
	}
	if ctx.Err() != nil || pg.IsConnectionLost(err) {
		return err
	}
	if !pg.IsLockTimeout(err) {
		plan.Hazards = append(plan.Hazards, Hazard{Blocks: StageOnline, Text: err.Error()})
	}
	plan.unindexed = true
	return savepoint.Rollback(ctx)
}
