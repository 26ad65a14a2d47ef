package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// Try runs the queries over these aggregates, once over all of them and once over each alone, and compares the rows as
// multisets, by how PostgreSQL prints them. It returns ErrAggregates if they differ, or if a row has not the id of the aggregate
// that it derives from. It writes nothing.
func (q *Queries) Try(ctx context.Context, tx pgx.Tx, aggregates []projections.ID) error {
	if err := q.Describe(ctx, tx); err != nil {
		return err
	}
	for _, t := range q.tables {
		if err := t.try(ctx, tx, aggregates); err != nil {
			return err
		}
	}
	return nil
}

// How a row can break the rule, as trySQL names it.
const (
	rowIsStray = "stray"
	rowIsAlone = "alone"
)

// trySQL is filled with the events of the sample, the number of the parameter with its aggregates, the type of their ids, the
// query over the events of one aggregate, the query over all, and the query's column with the aggregate's id.
const trySQL = `
with projector_sample as materialized (
%[1]s
), alone as materialized (
	select projector_one.id::text as given, %[6]s::text as id, projector_row::text as text
	from unnest($%[2]d::text[]::%[3]s[]) projector_one (id)
	cross join lateral %[4]s projector_row
), together as materialized (
	select %[6]s::text as id, projector_row::text as text
	from %[5]s projector_row
)
select 'stray', coalesce(id, ''), text from alone where id is distinct from given
union all (
	select 'alone', coalesce(id, ''), text
	from (select id, text from alone except all select id, text from together) a
) union all (
	select 'together', coalesce(id, ''), text
	from (select id, text from together except all select id, text from alone) a
)
limit 1`

func (t *sqlTable) try(ctx context.Context, tx pgx.Tx, aggregates []projections.ID) error {
	ids := make([]string, len(aggregates))
	for i, a := range aggregates {
		ids[i] = a.String()
	}
	events, args := t.source.SQL(eventstore.Selection{Aggregates: aggregates})
	sql := fmt.Sprintf(trySQL, events, len(args)+1, t.source.IDType(),
		t.relation("select * from projector_sample where aggregate_id = projector_one.id"), t.relation("select * from projector_sample"), t.yielded.expression)
	var kind, id, text string
	err := tx.QueryRow(ctx, sql, append(args, ids)...).Scan(&kind, &id, &text)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return t.failed(sql, err)
	case kind == rowIsStray:
		return fmt.Errorf("table %s: %w; the row is %s", t.Title, t.stray(id), shown(text))
	}
	said := "over all of them together, but over none of them alone"
	if kind == rowIsAlone {
		said = "over one of them alone, but not over all of them together"
	}
	return fmt.Errorf("table %s: %w: of %d aggregates that were tried, %s yields the row %s %s; group and partition by aggregate_id, "+
		"and leave what spans aggregates to a SQL view over the table", t.Title, ErrAggregates, len(aggregates), t.file(), shown(text), said)
}

// shown is the beginning of a row.
func shown(text string) string {
	const most = 200
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
