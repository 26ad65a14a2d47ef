package viewschema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// Plan says what a migration to the target would do. It touches nothing, unless Options.Rehearse is set. The error is ErrBelowCurrent or ErrDefinition, or that the database cannot be read.
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
	live, err := s.existing(ctx, s.db, names(plan.Tables)...)
	for i := range plan.Tables { // of a new table, nothing is archived
		if t := &plan.Tables[i]; !slices.Contains(live, t.Table) {
			t.Archived = ""
		}
	}
	return plan, err
}

// look fills in what the event store tells.
func (s *Schema) look(ctx context.Context, plan *Plan) error {
	source, err := s.source(ctx)
	if err != nil {
		return err
	}
	err = s.sampling(ctx, func(tx pgx.Tx) error {
		plan.Events, err = source.Estimate(ctx, tx)
		return err
	})
	if err != nil {
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
		text := "no cut can be settled: " + reason + "; the ledger will have a row for every event"
		if s.standby != nil {
			text += ", and events are read from the primary, and not from the standby"
		}
		plan.Hazards = append(plan.Hazards, Hazard{Text: text})
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
	return s.hanging(ctx, plan)
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
	wanted := func(t TableChange) []string { return []string{t.Built, totals[t.Table].Partial, t.Archived} }
	var all []string
	for _, t := range plan.Tables {
		all = append(append(all, t.Table), wanted(t)...)
	}
	exist, err := s.existing(ctx, q, all...)
	if err != nil {
		return err
	}
	recorded, err := s.recorded(ctx, q, exist)
	if err != nil {
		return err
	}
	owned, err := s.owned(ctx, q, exist)
	if err != nil {
		return err
	}
	for _, t := range plan.Tables {
		for _, n := range wanted(t) {
			if !slices.Contains(exist, n) {
				continue
			}
			from, err := s.archivedBy(ctx, q, n)
			if err != nil {
				return err
			}
			var whole string // that it is a partition of
			err = q.QueryRow(ctx, "select coalesce(min(inhparent::regclass::text), '') from pg_catalog.pg_inherits where inhrelid = $1::text::regclass", pg.Table(s.def.Schema, n)).Scan(&whole)
			switch {
			case err != nil:
				return fmt.Errorf("looking up what table %s is: %w", n, err)
			case whole != "":
				r.add("partition %s of %s has a name that the migration needs; give it another one, here and in its SQL file: alter table %[1]s rename to …", pg.Table(s.def.Schema, n), whole)
			case from > 0:
				r.add("table %s is the archived one of version %d, and the migration needs its name; to go live with that version again, type: rollback; "+
					"to give it up: clean --older-than 0s", pg.Table(s.def.Schema, n), from)
			default:
				r.add("table %s exists, and the migration needs its name; drop it if nobody uses it", pg.Table(s.def.Schema, n))
			}
		}
		if !slices.Contains(exist, t.Table) {
			if t.Kind == projector.KindAlter {
				r.add("table %s is to be altered, but does not exist", pg.Table(s.def.Schema, t.Table))
			}
			continue
		}
		switch {
		case !slices.Contains(owned, t.Table):
			r.add("table %s belongs to a role that ours is not a member of, so ours may not rename it", pg.Table(s.def.Schema, t.Table))
		case !slices.Contains(recorded, t.Table):
			r.add("table %s exists, but no migration has made it; rename or drop it first", pg.Table(s.def.Schema, t.Table))
		}
	}
	return r.orNil()
}

// archivedBy returns the version whose table is archived under a name; 0: none of ours is.
func (s *Schema) archivedBy(ctx context.Context, q pg.Querier, name string) (version int, err error) {
	if have, err := s.bookkeepingVersion(ctx, q); err != nil || have == 0 {
		return 0, err
	}
	err = q.QueryRow(ctx, s.sql(`
		select coalesce(max(m.from_version), 0)
		from %SCHEMA%.projector_tables t join %SCHEMA%.projector_migrations m on m.id = t.migration_id
		where t.archived_name = $1 and m.state in ('active', 'archived')`), name).Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("looking up what table %s is: %w", name, err)
	}
	return version, nil
}

// owned lists those tables with which, and with whose partitions, our role may do what the owner may.
func (s *Schema) owned(ctx context.Context, q pg.Querier, tables []string) (list []string, err error) {
	if len(tables) == 0 {
		return nil, nil
	}
	list, err = pg.Collect(ctx, q, pgx.RowTo[string], `
		select r.name
		from pg_catalog.unnest($2::text[]) r (name)
		cross join lateral (`+pg.Partitions("to_regclass(pg_catalog.format('%I.%I', $1::text, r.name))")+`) tree
		join pg_catalog.pg_class c on c.oid = tree.id
		group by r.name
		having bool_and(pg_has_role(c.relowner, 'usage'))`, pg.Once, s.def.Schema, tables)
	if err != nil {
		return nil, fmt.Errorf("looking up the owners of the tables %s: %w", strings.Join(tables, ", "), err)
	}
	return list, nil
}

// recorded lists those live tables that migrations have made which were cut over.
func (s *Schema) recorded(ctx context.Context, q pg.Querier, tables []string) (list []string, err error) {
	if len(tables) == 0 {
		return nil, nil
	}
	if have, err := s.bookkeepingVersion(ctx, q); err != nil || have == 0 {
		return nil, err
	}
	list, err = pg.Collect(ctx, q, pgx.RowTo[string], s.sql(`
		select distinct t.table_name
		from %SCHEMA%.projector_tables t
		join %SCHEMA%.projector_migrations m on m.id = t.migration_id
		where t.table_name = any ($1) and t.change = 'replay' and m.state in ('active', 'archived')`), pg.Once, tables)
	if err != nil {
		return nil, fmt.Errorf("looking up who made the tables %s: %w", strings.Join(tables, ", "), err)
	}
	return list, nil
}
