package viewschema

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// hanging fills in what becomes of all that hangs on the live tables: what is carried over, what blocks the cutover, and what the new
// tables will be without. For that it looks at the new tables. If there are none yet, less can be told, unless Options.Rehearse has
// them made in a transaction that is rolled back.
func (s *Schema) hanging(ctx context.Context, plan *Plan) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(c) // the tables, if it has made any; nothing else
	}()
	plan.unindexed = plan.UnderWay != replay.Built
	if plan.UnderWay == "" && s.opts.Rehearse && !plan.blocked(StageOnline) {
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

// ahead runs what warns of the cutover, with the search path of qualified. A lost connection is no reason to fail: the plan tells the same.
func (s *Schema) ahead(ctx context.Context, warn func(tx pgx.Tx) error) error {
	if err := pg.InTx(ctx, pg.Configured{DB: s.db, Settings: qualifying}, pg.PointList, warn); !pg.IsConnectionLost(err) {
		return err
	}
	return nil
}

// foresee warns, of tables that were made just now, of what will block their cutover: there is time to see to it.
func (s *Schema) foresee(ctx context.Context, plan *Plan) error {
	return s.ahead(ctx, func(tx pgx.Tx) error {
		_, blocks, err := s.examineCutover(ctx, tx, plan)
		if err == nil {
			err = blocks
		}
		refused, ok := errors.AsType[*refusal](err)
		if !ok {
			return err
		}
		for _, text := range refused.reasons {
			s.opts.Log.Warn().Str("blocks", string(StageOffline)).Msg(text)
		}
		return nil
	})
}

// warnOfLacking warns of what tables that are built will be without, while there is time to see to it.
func (s *Schema) warnOfLacking(ctx context.Context, plan *Plan) error {
	return s.ahead(ctx, func(tx pgx.Tx) error {
		notes, err := s.listLacking(ctx, tx, plan, true)
		for _, text := range notes {
			s.opts.Log.Warn().Msg(text)
		}
		return err
	})
}

func (p *Plan) blocked(stage Stage) bool {
	for _, h := range p.Hazards {
		if h.Blocks == stage {
			return true
		}
	}
	return false
}

// rehearseFit looks whether models and queries fit the tables.
func (s *Schema) rehearseFit(ctx context.Context, tx pgx.Tx, plan *Plan) error {
	source, err := s.source(ctx)
	if err == nil {
		err = fits(ctx, tx, s.projections(plan, versionSuffix(plan.To)), source)
	}
	return err
}

// rehearse makes the new tables with their indexes in tx, if they will take the place of others. A file that PostgreSQL refuses is a
// hazard. If a lock cannot be had, for a foreign key of the new table, it makes none.
func (s *Schema) rehearse(ctx context.Context, tx pgx.Tx, plan *Plan) error {
	if live, err := s.existing(ctx, tx, names(plan.replayed())...); err != nil || len(live) == 0 {
		return err
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := savepoint.Exec(ctx, "select set_config('lock_timeout', $1, true)", pg.Milliseconds(lockTimeout)); err != nil {
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
		err = s.rehearseFit(ctx, savepoint, plan)
	}
	if err == nil {
		plan.unindexed = false
		return savepoint.Commit(ctx)
	}
	if ctx.Err() != nil || pg.IsConnectionLost(err) {
		return err
	}
	if !pg.IsLockTimeout(err) {
		plan.Hazards = append(plan.Hazards, Hazard{Blocks: StageOnline, Text: err.Error()})
	}
	return savepoint.Rollback(ctx)
}
