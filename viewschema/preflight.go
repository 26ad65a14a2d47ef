package viewschema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// Plan says what a migration to the target would do. It touches nothing. The error is ErrBelowCurrent or ErrDefinition, or
// that the database cannot be read.
func (s *Schema) Plan(ctx context.Context) (*Plan, error) {
	current, err := s.CurrentVersion(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkDirection(current); err != nil {
		return nil, err
	}
	plan, err := s.def.reduce(current)
	if err != nil {
		return nil, err
	}
	plan.Types, plan.Hazards, plan.Carried = Types{Unknown: []TypeCount{}, Absent: []AbsentType{}}, []Hazard{}, []string{}
	if plan.Nothing() {
		return plan, nil
	}
	if err := s.look(ctx, plan); err != nil {
		return nil, err
	}
	if err := s.hazards(ctx, plan); err != nil {
		return nil, err
	}
	for i := range plan.Tables { // of a new table, nothing is archived
		t := &plan.Tables[i]
		if live, err := s.exists(ctx, s.db, t.Table); err != nil {
			return nil, err
		} else if !live {
			t.Archived = ""
		}
	}
	return plan, nil
}

// look fills in what the event store tells.
func (s *Schema) look(ctx context.Context, plan *Plan) error {
	source, err := s.source(ctx)
	if err != nil {
		return err
	}
	if plan.Events, err = source.Estimate(ctx, s.events); err != nil {
		return err
	}
	plan.Lane = s.lane(plan)
	if parallel := s.projections(plan, "").Parallel(); len(parallel.Projectors()) > 0 {
		layout, err := source.Layout(ctx, s.events)
		if err != nil {
			return err
		}
		plan.Batches = int(max(1, plan.Events/replay.BatchSize(parallel, layout, plan.Events, s.opts.Workers)))
		plan.Reading = &Reading{Passes: min(plan.Batches, replay.Passes(layout, s.opts.Workers)), Layout: layout}
	}
	if plan.Types, err = s.types(ctx, source, plan, s.opts.StrictTypes); err != nil {
		return err
	}
	if err := s.checkQueries(ctx, source, plan); err != nil {
		return err
	}
	if err := plan.refusedBy(StageOnline, checkLast(s.projections(plan, ""), source)); err != nil {
		return err
	}
	whyNot, err := source.MayHoldWriters(ctx, s.events)
	if err != nil {
		return err
	}
	if whyNot != "" {
		plan.Hazards = append(plan.Hazards, Hazard{Text: whyNot + "; the cutover will need stopped writers and --maintenance"})
	}
	foreign, err := source.ForeignTransactions(ctx, s.events)
	if err != nil {
		return err
	}
	if foreign != "" {
		plan.Hazards = append(plan.Hazards, Hazard{Blocks: StageOnline, Text: foreign})
	}
	reason, err := source.Distrust(ctx, s.events)
	if err == nil {
		err = plan.refusedBy(StageOnline, s.checkOrders(plan, source, reason))
	}
	if err == nil && reason != "" && len(plan.Projectors) > len(plan.Lane) {
		plan.Hazards = append(plan.Hazards, Hazard{Text: "no cut can be settled: " + reason + "; the ledger will have a row for every event"})
	}
	return err
}

// hazards collects what stands in the way of the plan in the database.
func (s *Schema) hazards(ctx context.Context, plan *Plan) error {
	m, err := s.underWay(ctx, s.db)
	if err != nil {
		return err
	}
	switch {
	case m == nil:
		if err := plan.refusedBy(StageOnline, s.checkNames(ctx, s.db, plan)); err != nil {
			return err
		}
	case m.to == plan.To:
		plan.UnderWay = m.state
		now, err := s.fingerprint(ctx, s.db)
		if err != nil {
			return err
		}
		if diff := m.fingerprint.diff(now); diff != "" {
			stage := StageOnline
			if m.state == replay.Built {
				stage = StageOffline
			}
			plan.Hazards = append(plan.Hazards, Hazard{Blocks: stage, Text: fmt.Sprintf("%v: %s; go on with the binary that began it, or start over: migrate abort", ErrChanged, diff)})
		}
	default:
		plan.Hazards = append(plan.Hazards, Hazard{Blocks: StageOnline, Text: fmt.Sprintf("a migration to version %d is under way (%s)", m.to, m.state)})
	}
	if s.opts.StrictTypes && plan.UnderWay != replay.Built {
		if err := plan.refusedBy(StageOnline, plan.refused()); err != nil {
			return err
		}
	}
	if m != nil && m.to == plan.To {
		if err := plan.refusedBy(StageOffline, s.checkParked(ctx, s.db, m)); err != nil {
			return err
		}
	}
	var all []belonging
	err = pg.InTx(ctx, s.db, pg.PointList, func(tx pgx.Tx) (err error) {
		all, err = s.checkCutover(ctx, tx, plan)
		return err
	})
	for _, b := range all {
		if b.Problem == "" {
			plan.Carried = append(plan.Carried, b.What)
		}
	}
	return plan.refusedBy(StageOffline, err)
}

// refusedBy turns a refusal into hazards that block the stage, and returns any other error.
func (p *Plan) refusedBy(stage Stage, err error) error {
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		return err
	}
	for _, text := range refused.reasons {
		p.Hazards = append(p.Hazards, Hazard{Blocks: stage, Text: text})
	}
	return nil
}

// refusal is ErrRefused with all its reasons.
type refusal struct{ reasons []string }

func (r *refusal) Error() string { return ErrRefused.Error() + ": " + strings.Join(r.reasons, "; ") }
func (r *refusal) Unwrap() error { return ErrRefused }

func (r *refusal) add(format string, args ...any) {
	r.reasons = append(r.reasons, fmt.Sprintf(format, args...))
}

func (r *refusal) orNil() error {
	if len(r.reasons) == 0 {
		return nil
	}
	return r
}

// checkNames refuses a plan whose names are taken, or whose live tables are not ours: only tables that a migration made
// are ever renamed.
func (s *Schema) checkNames(ctx context.Context, q pg.Querier, plan *Plan) error {
	r := &refusal{}
	totals := s.totals(plan)
	for _, t := range plan.Tables {
		for _, n := range []string{t.Built, totals[t.Table].Partial, t.Archived} {
			if n == "" {
				continue
			}
			taken, err := s.exists(ctx, q, n)
			if err != nil {
				return err
			}
			if taken {
				r.add("table %s exists, and the migration needs its name; drop it if nobody uses it", pg.Table(s.def.Schema, n))
			}
		}
		live, err := s.exists(ctx, q, t.Table)
		if err != nil {
			return err
		}
		ours, err := s.recorded(ctx, q, t.Table)
		if err != nil {
			return err
		}
		mine, err := s.owned(ctx, q, t.Table)
		if err != nil {
			return err
		}
		switch {
		case live && !mine:
			r.add("table %s belongs to a role that ours is not a member of, so ours may not rename it", pg.Table(s.def.Schema, t.Table))
		case live && !ours:
			r.add("table %s exists, but no migration has made it; rename or drop it first", pg.Table(s.def.Schema, t.Table))
		case !live && t.Kind == projector.KindAlter:
			r.add("table %s is to be altered, but does not exist", pg.Table(s.def.Schema, t.Table))
		}
	}
	return r.orNil()
}

// owned says whether our role may do what the owner of a table may.
func (s *Schema) owned(ctx context.Context, q pg.Querier, table string) (mine bool, err error) {
	err = q.QueryRow(ctx, "select coalesce((select pg_has_role(relowner, 'usage') from pg_catalog.pg_class where oid = to_regclass($1)), false)",
		pg.Table(s.def.Schema, table)).Scan(&mine)
	if err != nil {
		return false, fmt.Errorf("looking up the owner of table %s: %w", table, err)
	}
	return mine, nil
}

// recorded says whether a migration that was cut over has made the live table.
func (s *Schema) recorded(ctx context.Context, q pg.Querier, table string) (ours bool, err error) {
	if have, err := s.bookkeepingVersion(ctx, q); err != nil || have == 0 {
		return false, err
	}
	err = q.QueryRow(ctx, s.sql(`
		select exists (
			select
			from %SCHEMA%.projector_tables t
			join %SCHEMA%.projector_migrations m on m.id = t.migration_id
			where t.table_name = $1 and t.change = 'replay' and m.state in ('active', 'archived')
		)`), table).Scan(&ours)
	if err != nil {
		return false, fmt.Errorf("looking up who made table %s: %w", table, err)
	}
	return ours, nil
}

// checkCutover refuses a cutover that would leave something behind on the archived table: what depends on a table is bound
// to the table, not to its name, and stays with it when it is renamed. It returns what can be made anew for the new table.
func (s *Schema) checkCutover(ctx context.Context, tx pgx.Tx, plan *Plan) ([]belonging, error) {
	all, err := s.belongings(ctx, tx, plan)
	if err != nil {
		return nil, err
	}
	r := &refusal{}
	for _, b := range all {
		if b.Problem != "" {
			r.add("%s would stay behind with the archived table: %s; drop it before the cutover and create it again after", b.What, b.Problem)
		}
	}
	for _, t := range plan.Tables {
		if t.Kind == projector.KindAlter || t.Archived == "" {
			continue
		}
		rows, err := tx.Query(ctx, dependents, pg.Table(s.def.Schema, t.Table), t.Kind == projector.KindReplay)
		if err != nil {
			return nil, fmt.Errorf("looking for what depends on %s: %w", t.Table, err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, fmt.Errorf("looking for what depends on %s: %w", t.Table, err)
		}
		for _, what := range found {
			r.add("%s would stay behind with the archived table %s; drop it before the cutover and create it again after", what, t.Archived)
		}
	}
	return all, r.orNil()
}

// dependents is given a table, and whether what package viewschema can make anew for another table is left out.
const dependents = `
	select distinct pg_catalog.format('%s %s', case c.relkind when 'v' then 'view' when 'm' then 'materialized view' else 'rule of' end, c.oid::regclass)
	from pg_catalog.pg_depend d
	join pg_catalog.pg_rewrite w on w.oid = d.objid
	join pg_catalog.pg_class c on c.oid = w.ev_class
	where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass($1)
	  and not ($2 and c.relkind = 'v')
	union all
	select pg_catalog.format('foreign key %I of %s', conname, conrelid::regclass)
	from pg_catalog.pg_constraint
	where contype = 'f' and confrelid = to_regclass($1) and conrelid <> confrelid
	union all
	select pg_catalog.format('policy %I of %s', p.polname, p.polrelid::regclass)
	from pg_catalog.pg_depend d join pg_catalog.pg_policy p on p.oid = d.objid
	where d.classid = 'pg_policy'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass($1) and p.polrelid <> d.refobjid
	union -- a body that is kept as SQL text finds the new table by its name; one of parsed SQL, and a row type, do not
	select pg_catalog.format('function %s', d.objid::regprocedure)
	from pg_catalog.pg_depend d
	where d.classid = 'pg_proc'::regclass
	  and (d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass($1)
		or d.refclassid = 'pg_type'::regclass and d.refobjid = (select reltype from pg_catalog.pg_class where oid = to_regclass($1)))
	union all
	select pg_catalog.format('trigger %I of %s', tgname, tgrelid::regclass)
	from pg_catalog.pg_trigger
	where tgrelid = to_regclass($1) and not tgisinternal and not $2
	union all
	select pg_catalog.format('row security of %s', oid::regclass)
	from pg_catalog.pg_class
	where oid = to_regclass($1) and (relrowsecurity or relforcerowsecurity) and not $2
	union all
	select pg_catalog.format('the place of %s in publication %I', to_regclass($1), p.pubname)
	from pg_catalog.pg_publication_rel pr join pg_catalog.pg_publication p on p.oid = pr.prpubid
	where pr.prrelid = to_regclass($1)
	order by 1`
