package eventstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// SQL returns a select that yields the events of the selection to other SQL, and its parameters, $1 and on. Its columns do not
// depend on the mapping: position bigint, aggregate_id uuid or text, aggregate_type text, sequence_number bigint, event_type
// text, data jsonb, metadata jsonb, created_at timestamptz, schema_version text, tenant text. What the store does not have is
// null. Sel must not have Bounds.
func (r *Reader) SQL(sel Selection) (sql string, args []any) {
	where, args := r.where(sel)
	m := r.mapping
	text := func(field string) string {
		if field == "" {
			return "null::text"
		}
		return r.column(field) + "::text"
	}
	columns := []string{
		r.position + "::int8 as position",
		r.id + "::" + r.idType + " as aggregate_id",
		text(m.AggregateType) + " as aggregate_type",
		r.sequence + "::int8 as sequence_number",
		text(m.Type) + " as event_type",
		r.json(m.Data) + " as data",
		r.json(m.Metadata) + " as metadata",
		r.time() + " as created_at",
		text(m.SchemaVersion) + " as schema_version",
		text(m.Tenant) + " as tenant",
	}
	return fmt.Sprintf("select %s\nfrom %s\nwhere %s", strings.Join(columns, ", "), r.from(""), where), args
}

// json is a payload as jsonb.
func (r *Reader) json(field string) string {
	if field == "" {
		return "null::jsonb"
	}
	sql := r.column(field)
	switch r.types[field] {
	case "jsonb":
		return sql
	case "bytea":
		return "convert_from(" + sql + ", 'UTF8')::jsonb"
	case "oid":
		return "convert_from(pg_catalog.lo_get(" + sql + "), 'UTF8')::jsonb"
	}
	return sql + "::jsonb"
}

func (r *Reader) time() string {
	field := r.mapping.Time
	for _, a := range asTime {
		if a.typ == r.types[field] {
			return fmt.Sprintf(a.sql, r.column(field))
		}
	}
	return "null::timestamptz"
}

// IDType is the type of aggregate ids in SQL: uuid or text.
func (r *Reader) IDType() string { return r.idType }

// Among returns the condition that an SQL expression, a uuid or text, is one of the selection's aggregates, and its
// parameters, the first of which has the given number. Where the expression is null, it does not hold.
func (r *Reader) Among(sel Selection, expression, typ string, number int) (sql string, args []any) {
	collate := ""
	if typ == "text" {
		collate = ` collate "C"`
	}
	p := params{before: number - 1}
	conditions := append([]string{expression + " is not null"}, sel.among(&p, expression, typ, collate)...)
	return strings.Join(conditions, " and "), p.values
}

// Aggregate is an aggregate and how many events of a selection it has.
type Aggregate struct {
	ID     projections.ID
	Events int64
}

// Aggregates lists the aggregates of the selection. It does not read payloads.
func (r *Reader) Aggregates(ctx context.Context, q pg.Querier, sel Selection) ([]Aggregate, error) {
	where, args := r.where(sel)
	sql := fmt.Sprintf("select %[1]s::text, count(*) from %[2]s where %[3]s group by %[1]s order by %[1]s", r.id, r.from(""), where)
	return r.aggregates(ctx, q, sql, args...)
}

// Sample lists up to most aggregates of different sizes, the smallest first, with how many events each has. They come from a
// sample of the store. Together they have no more than the given number of events, or are two.
func (r *Reader) Sample(ctx context.Context, q pg.Querier, most int, events int64) ([]Aggregate, error) {
	total, err := r.Estimate(ctx, q)
	if err != nil {
		return nil, err
	}
	where, args := r.where(Selection{})
	found, err := r.aggregates(ctx, q, fmt.Sprintf(`
		with sample as (
			select distinct %[1]s as id
			from %[2]s
			where %[4]s
		), few as (
			select id from sample order by hashtext(id::text) limit %[5]d
		)
		select %[1]s::text, count(*)
		from %[3]s
		where %[1]s in (select id from few) and (%[4]s)
		group by %[1]s
		order by count(*), %[1]s`, r.id, r.from(r.sample(total)), r.from(""), where, max(100, most)), args...)
	if err != nil {
		return nil, err
	}
	var picked []Aggregate
	var sum int64
	for i := range min(most, len(found)) { // evenly over the sizes
		a := found[i*len(found)/min(most, len(found))]
		if sum += a.Events; sum > events && len(picked) >= 2 {
			break
		}
		picked = append(picked, a)
	}
	return picked, nil
}

func (r *Reader) aggregates(ctx context.Context, q pg.Querier, sql string, args ...any) ([]Aggregate, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err == nil {
		var list []Aggregate
		if list, err = r.CollectAggregates(rows); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("listing aggregates: %w", err)
}

// CollectAggregates reads rows of ids, as text, and numbers of events.
func (r *Reader) CollectAggregates(rows pgx.Rows) ([]Aggregate, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Aggregate, err error) {
		var text string
		if err := row.Scan(&text, &a.Events); err != nil {
			return a, err
		}
		a.ID, err = r.ParseID(text)
		return a, err
	})
}
