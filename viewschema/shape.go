package viewschema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// column is what a comparison of tables has to know of a column.
type column struct {
	Name     string
	Numbered bool // the database numbers it: two tables with the same rows may differ in it
	Computed bool // from other columns
	Key      bool // a part of the primary key
}

// shape is a table's columns, in their order; none if there is no such table.
type shape []column

func (s *Schema) shape(ctx context.Context, q pg.Querier, table string) (shape, error) {
	list, err := pg.Collect(ctx, q, pgx.RowToStructByPos[column], `
		select a.attname::text,
			a.attidentity <> '' or coalesce(pg_get_expr(d.adbin, d.adrelid) ~ '^nextval\(', false), a.attgenerated <> '',
			coalesce(a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false)
		from pg_catalog.pg_attribute a
		left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		left join pg_catalog.pg_index i on i.indrelid = a.attrelid and i.indisprimary
		where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped
		order by a.attnum`, pg.Table(s.def.Schema, table))
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s: %w", table, err)
	}
	return list, nil
}

// names returns the names of all columns.
func (t shape) names() []string { return t.of(func(column) bool { return true }) }

// numbered returns the names of those that the database numbers.
func (t shape) numbered() []string { return t.of(func(c column) bool { return c.Numbered }) }

// made returns the names of those that the database numbers or computes.
func (t shape) made() []string { return t.of(func(c column) bool { return c.Numbered || c.Computed }) }

// key returns the names of the primary key's; none if there is none.
func (t shape) key() []string { return t.of(func(c column) bool { return c.Key }) }

func (t shape) of(wanted func(column) bool) []string {
	list := []string{}
	for _, c := range t {
		if wanted(c) {
			list = append(list, c.Name)
		}
	}
	return list
}
