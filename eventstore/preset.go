package eventstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/nearest"
	"github.com/viewschema/projector/internal/pg"
)

// preset knows the event table of a framework. Names of tables and columns are compared without case and underscores, as
// naming strategies differ in them.
type preset struct {
	name    string
	tables  []string // what the table can be called; nil: anything
	columns []string // that it has to have
	hint    string   // what to do if there is no such table
	mapping func(t *table) Mapping
}

// Presets lists the names that Mapping.Preset can have, sorted.
func Presets() []string {
	names := make([]string, len(presets))
	for i, p := range presets {
		names[i] = p.name
	}
	slices.Sort(names)
	return names
}

// resolve looks for the preset's table and returns its mapping, with the fields of m that are set in place of its own.
func resolve(ctx context.Context, q pg.Querier, m Mapping) (Mapping, error) {
	i := slices.IndexFunc(presets, func(p preset) bool { return p.name == m.Preset })
	if i < 0 {
		return m, fmt.Errorf("%w: there is no preset %q%s; the presets are %s",
			ErrMapping, m.Preset, nearest.DidYouMean("", m.Preset, slices.Values(Presets())), strings.Join(Presets(), ", "))
	}
	p := presets[i]
	t, err := p.find(ctx, q, m)
	if err != nil {
		return m, err
	}
	made := p.mapping(t)
	made.Relation = t.String()
	switch {
	case t.err != nil:
		return m, fmt.Errorf("looking at %s for preset %s: %w", t, p.name, t.err)
	case t.refusals != nil:
		return m, fmt.Errorf("%w: preset %s: %s", ErrMapping, p.name, strings.Join(t.refusals, "; "))
	}
	return m.over(made), nil
}

// over returns m with what it leaves empty taken from base.
func (m Mapping) over(base Mapping) Mapping {
	return Mapping{
		Preset:        m.Preset,
		Relation:      cmp.Or(m.Relation, base.Relation),
		Join:          cmp.Or(m.Join, base.Join),
		Position:      cmp.Or(m.Position, base.Position),
		AggregateID:   cmp.Or(m.AggregateID, base.AggregateID),
		Sequence:      cmp.Or(m.Sequence, base.Sequence),
		Type:          cmp.Or(m.Type, base.Type),
		Data:          cmp.Or(m.Data, base.Data),
		Time:          cmp.Or(m.Time, base.Time),
		Where:         cmp.Or(m.Where, base.Where),
		AggregateType: cmp.Or(m.AggregateType, base.AggregateType),
		Metadata:      cmp.Or(m.Metadata, base.Metadata),
		SchemaVersion: cmp.Or(m.SchemaVersion, base.SchemaVersion),
		Tenant:        cmp.Or(m.Tenant, base.Tenant),
		Partition:     cmp.Or(m.Partition, base.Partition),
		Positions:     cmp.Or(m.Positions, base.Positions),
	}
}

// table is the event table of a preset, as the catalog shows it.
type table struct {
	ctx   context.Context
	q     pg.Querier
	given Mapping // what the user says

	Schema, Name string
	OnPath       bool // the search path finds it
	Columns      []tableColumn

	refusals []string // why the preset cannot be used as it is
	err      error
}

type tableColumn struct{ Name, Type, Default string }

// find looks for the one table that fits the preset.
func (p *preset) find(ctx context.Context, q pg.Querier, m Mapping) (*table, error) {
	named, err := pg.Collect(ctx, q, pgx.RowToAddrOfStructByNameLax[table], `
		select n.nspname::text as schema, c.relname::text as name,
			coalesce(to_regclass(pg_catalog.quote_ident(c.relname)) = c.oid, false) as on_path,
			pg_catalog.json_agg(pg_catalog.json_build_object(
				'name', a.attname, 'type', t.typname, 'default', coalesce(pg_get_expr(d.adbin, d.adrelid), '')) order by a.attnum) as columns
		from pg_catalog.pg_class c
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		join pg_catalog.pg_type t on t.oid = a.atttypid
		left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		where c.relkind in ('r', 'p', 'v')
		  and not c.relispartition
		  and n.nspname not in ('pg_catalog', 'information_schema')
		  and case when $1 <> '' then c.oid = to_regclass($1)
			else $2::text[] is null or lower(replace(c.relname, '_', '')) = any ($2) end
		group by n.nspname, c.relname, c.oid
		order by n.nspname, c.relname`, m.Relation, folded(p.tables))
	if err != nil {
		return nil, fmt.Errorf("looking for the table of preset %s: %w", p.name, err)
	}
	var fit []*table
	for _, t := range named {
		t.ctx, t.q, t.given = ctx, q, m
		if !slices.ContainsFunc(p.columns, func(c string) bool { return t.column(c) == "" }) {
			fit = append(fit, t)
		}
	}
	if onPath := slices.DeleteFunc(slices.Clone(fit), func(t *table) bool { return !t.OnPath }); len(onPath) == 1 {
		fit = onPath
	}
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) > 1:
		return nil, fmt.Errorf("%w: preset %s fits %s; name one of them in Relation", ErrMapping, p.name, list(fit))
	}
	return nil, p.missing(ctx, q, m, named)
}

// missing says what the preset looks for and did not find.
func (p *preset) missing(ctx context.Context, q pg.Querier, m Mapping, named []*table) error {
	what := "a table"
	switch {
	case m.Relation != "":
		what = "a table " + m.Relation
	case p.tables != nil:
		what = "a table " + strings.Join(p.tables, " or ")
	}
	database, _, err := whereabouts(ctx, q)
	if err != nil {
		return err
	}
	problem := fmt.Sprintf("preset %s looks for %s with the columns %s, and our role sees none in database %s",
		p.name, what, strings.Join(p.columns, ", "), database)
	if len(named) > 0 && p.tables != nil {
		problem += "; " + list(named) + " has other columns"
	}
	if p.hint != "" {
		problem += "; " + p.hint
	}
	return fmt.Errorf("%w: %s", ErrMapping, problem)
}

func list(tables []*table) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.String()
	}
	return strings.Join(names, ", ")
}

// String returns the quoted and qualified name.
func (t *table) String() string { return pg.Table(t.Schema, t.Name) }

// column returns the first of the columns that the table has; empty if it has none of them.
func (t *table) column(names ...string) string {
	c, _ := t.describe(names...)
	return c.Name
}

func (t *table) describe(names ...string) (tableColumn, bool) {
	for _, name := range names {
		if i := slices.IndexFunc(t.Columns, func(c tableColumn) bool { return fold(c.Name) == fold(name) }); i >= 0 {
			return t.Columns[i], true
		}
	}
	return tableColumn{}, false
}

func folded(names []string) (all []string) {
	for _, n := range names {
		all = append(all, fold(n))
	}
	return all
}

func fold(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

// sql is a column in an expression.
func (t *table) sql(name string) string { return "e." + pgx.Identifier{t.column(name)}.Sanitize() }

// refuse says why the preset cannot be used, and what to do.
func (t *table) refuse(format string, args ...any) {
	t.refusals = append(t.refusals, fmt.Sprintf(format, args...))
}

// sibling is another table of the same schema, quoted and qualified; empty if there is none.
func (t *table) sibling(name string) string {
	found := ""
	if t.err == nil {
		err := t.q.QueryRow(t.ctx, `
			select c.relname
			from pg_catalog.pg_class c
			join pg_catalog.pg_namespace n on n.oid = c.relnamespace
			where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'v')`, t.Schema, name).Scan(&found)
		if errors.Is(err, pgx.ErrNoRows) {
			return ""
		}
		t.err = err
	}
	return pg.Table(t.Schema, found)
}

// needs is sibling for a table without which nothing works.
func (t *table) needs(name string) string {
	s := t.sibling(name)
	if s == "" && t.err == nil {
		t.refuse("there is no table %s beside %s", pg.Table(t.Schema, name), t)
	}
	return s
}

// siblingColumn is the type of a column of another table of the same schema; empty if there is none.
func (t *table) siblingColumn(name, column string) (typ string) {
	if t.err == nil {
		t.err = t.q.QueryRow(t.ctx, `
			select coalesce((
				select t.typname::text
				from pg_catalog.pg_attribute a
				join pg_catalog.pg_type t on t.oid = a.atttypid
				where a.attrelid = to_regclass($1) and a.attname = $2 and not a.attisdropped), '')`,
			pg.Table(t.Schema, name), column).Scan(&typ)
	}
	return typ
}

// unique says whether a unique index of a relation has just these columns.
func (t *table) unique(relation string, columns ...string) (unique bool) {
	columns = folded(columns)
	slices.Sort(columns)
	if t.err == nil {
		t.err = t.q.QueryRow(t.ctx, `
			select exists (
				select
				from pg_catalog.pg_index i
				where i.indrelid = to_regclass($1) and i.indisunique and i.indisvalid and i.indpred is null
				  and $2::text[] = (
					select pg_catalog.array_agg(lower(replace(a.attname, '_', '')) order by lower(replace(a.attname, '_', '')) collate "C")
					from pg_catalog.pg_attribute a
					where a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])))`,
			relation, columns).Scan(&unique)
	}
	return unique
}

// checkPayload reads one payload. A preset takes it for JSON; whoever names the column in Data takes it for what it is.
func (r *Reader) checkPayload(ctx context.Context, q pg.Querier) error {
	if t := r.types[r.mapping.Data]; t == "json" || t == "jsonb" {
		return nil
	}
	where, args := r.where(Selection{})
	var data []byte
	err := q.QueryRow(ctx, fmt.Sprintf("select %s from %s where %s limit 1", r.row.data, r.from(""), where), args...).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && json.Valid(data) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading a payload of %s: %w", r.relation, err)
	}
	what, remedy := "not JSON; they may be compressed or encrypted", ""
	for _, f := range formats {
		if bytes.HasPrefix(data, []byte(f.begin)) {
			what, remedy = f.name, f.remedy
			break
		}
	}
	return fmt.Errorf("%w: preset %s: the payloads of %s are %s; "+
		"%sgive each event type a decoder of its own (projections.Decode) and say that you do: Data: %q",
		ErrMapping, r.mapping.Preset, r.relation, what, remedy, r.mapping.Data)
}

// formats are told by how they begin.
var formats = []struct{ begin, name, remedy string }{
	{"\x83", "in Erlang's external term format", "store JSON (EventStore.JsonSerializer), after rewriting what is stored, or "},
	{"---", "YAML", "store JSON (RubyEventStore::JSONClient), after rewriting what is stored, or "},
	{"<", "XML", "store JSON (JacksonSerializer), after rewriting what is stored, or "},
	{"\xac\xed", "serialized Java objects", "store JSON (JacksonSerializer), after rewriting what is stored, or "},
	{"x\x9c", "compressed (zlib)", ""},
	{"x\xda", "compressed (zlib)", ""},
	{"x\x01", "compressed (zlib)", ""},
}
