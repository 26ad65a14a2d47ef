package eventstore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// base is the table whose column gives events their positions: the event table itself, or the one that a view selects
// from; 0 if there is none.
type base struct {
	table    uint32
	position string // the column, if reason is empty
	reason   string // why the column is not known
	// unlocked says what keeps a lock of the view from holding off its writers: LOCK TABLE reaches the tables of a view, but
	// neither foreign tables nor what functions read.
	unlocked string
}

// findBase finds where a view's positions come from. Only a view on a single table will do, which hands the column
// through: with a second table, a row of it that comes late could make an event appear below a settled cut.
func (r *Reader) findBase(ctx context.Context, q pg.Querier) (base, error) {
	rows, err := q.Query(ctx, `
		with recursive sources (relation) as (
			select $1::oid
			union
			select d.refobjid
			from sources s
			join pg_catalog.pg_rewrite w on w.ev_class = s.relation
			join pg_catalog.pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
		)
		select c.oid, c.relkind in ('r', 'p') and not exists (
			select
			from sources f
			join pg_catalog.pg_rewrite w on w.ev_class = f.relation
			join pg_catalog.pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_proc'::regclass
			join pg_catalog.pg_proc p on p.oid = d.refobjid and p.proretset)
		from sources s
		join pg_catalog.pg_class c on c.oid = s.relation and c.relkind <> 'v'`, r.oid)
	if err != nil {
		return base{}, fmt.Errorf("looking for the tables of view %s: %w", r.relation, err)
	}
	var tables []uint32
	var table uint32
	plain, lockable := false, true
	_, err = pgx.ForEachRow(rows, []any{&table, &plain}, func() error {
		tables = append(tables, table)
		lockable = lockable && plain
		return nil
	})
	if err != nil {
		return base{}, fmt.Errorf("looking for the tables of view %s: %w", r.relation, err)
	}
	unlocked := ""
	if len(tables) == 0 || !lockable {
		unlocked = r.relation + " is a view of something else than tables, which a lock of the view does not reach"
	}
	if len(tables) != 1 || unlocked != "" {
		return base{reason: fmt.Sprintf("%s is a view of %d tables", r.relation, len(tables)), unlocked: unlocked}, nil
	}
	if isExpression(r.mapping.Position) {
		return base{table: tables[0], reason: "the position is an expression, " + r.mapping.Position}, nil
	}
	column, err := r.throughColumn(ctx, q)
	if err != nil {
		return base{}, err
	}
	if column == "" {
		return base{table: tables[0], reason: fmt.Sprintf("%s.%s is not a column of the view's table", r.relation, r.mapping.Position)}, nil
	}
	return base{table: tables[0], position: column}, nil
}

// throughColumn asks the planner what the view's position is: for a column that is handed through, the plan of a scan of
// the table has it as its output. Anything else, an expression or a subquery that cannot be merged, looks different.
func (r *Reader) throughColumn(ctx context.Context, q pg.Querier) (string, error) {
	var text []byte
	sql := fmt.Sprintf("explain (verbose, format json) select %s from %s e", r.drawn, r.relation)
	if err := q.QueryRow(ctx, sql).Scan(&text); err != nil {
		return "", fmt.Errorf("looking for the position of view %s: %w", r.relation, err)
	}
	var plans []struct {
		Plan struct {
			Output []string `json:"Output"`
			Table  string   `json:"Relation Name"`
			Alias  string   `json:"Alias"`
		}
	}
	if err := json.Unmarshal(text, &plans); err != nil || len(plans) != 1 {
		return "", fmt.Errorf("looking for the position of view %s: EXPLAIN answered %q: %w", r.relation, text, err)
	}
	plan := plans[0].Plan
	if plan.Table == "" || len(plan.Output) != 1 {
		return "", nil
	}
	column := plan.Output[0]
	for _, alias := range []string{plan.Alias, pgx.Identifier{plan.Alias}.Sanitize()} {
		column = strings.TrimPrefix(column, alias+".")
	}
	if quoted, ok := strings.CutPrefix(column, `"`); ok {
		return strings.ReplaceAll(strings.TrimSuffix(quoted, `"`), `""`, `"`), nil
	}
	if strings.ContainsAny(column, "(). '+-*/:") {
		return "", nil
	}
	return column, nil
}
