package projections

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// TotalsTarget is an accumulating table of a set, bound to the table that it fills.
//
// Batches that run at the same time must not wait for each other's rows, as they would where each adds to the rows of one
// table. So they leave partial rows in a side table that has no key, and one statement merges these when all batches are
// done. A catch-up adds to the table itself.
type TotalsTarget struct {
	Table     string // without schema and suffix
	Projector string
	Relation  string // quoted, with the schema and the suffix of the set
	Title     string // the same, for messages
	Partial   string // the name of the side table, in the same schema

	side  string // Partial, quoted
	rules *accumulation
}

// partialPrefix begins the names of side tables. No view table has such a name.
const partialPrefix = "projector_partial_"

// Totals returns the accumulating tables of the set's projectors, in their order.
func (s *Set) Totals() (list []TotalsTarget) {
	for _, p := range s.projectors {
		for _, t := range p.Tables {
			if t, ok := t.(accumulating); ok {
				relation, title := s.relation(t.TableName())
				partial := partialPrefix + t.TableName()
				side, _ := s.relation(partial)
				list = append(list, TotalsTarget{
					Table: t.TableName(), Projector: p.Name, Relation: relation, Title: title,
					Partial: partial + s.suffix, side: side, rules: t.rules(),
				})
			}
		}
	}
	return list
}

// LastBy returns the column that is tagged view:"last", and empty if there is none: the order of events matters to it, so
// it needs a store in which no two events share a position.
func (t TotalsTarget) LastBy() string {
	for _, c := range t.rules.columns {
		if c.rule == ruleLast {
			return c.name
		}
	}
	return ""
}

// CreatePartial is the statement that makes the side table. It is logged: a crash empties unlogged tables, while the
// batches whose rows they had stay done. Its sums are as wide as they get in memory, even if those of the table are not.
func (t TotalsTarget) CreatePartial() string {
	var columns []string
	for _, c := range t.rules.model.columns {
		sql := c.sql()
		if t.rules.sums(c) {
			sql = fmt.Sprintf("%[1]s + 0::bigint as %[1]s", sql)
		}
		columns = append(columns, sql)
	}
	return fmt.Sprintf("create table %s as select %s from %s with no data", t.side, strings.Join(columns, ", "), t.Relation)
}

// Merge is the statement that puts the partial rows together in the table.
func (t TotalsTarget) Merge() string { return t.rules.addTo(t.Relation, t.side) }

// sums says whether the column adds up.
func (a *accumulation) sums(c *column) bool {
	return slices.ContainsFunc(a.columns, func(of accumulated) bool {
		return of.column == c && (of.rule == ruleSum || of.rule == ruleCount)
	})
}

// addTo is the one statement by which rows get into an accumulating table: those of the source with one key are put
// together, and then added to what the table has, in the order of keys.
func (a *accumulation) addTo(relation, source string) string {
	var keys, from, sets []string
	for _, c := range a.model.columns {
		i := slices.IndexFunc(a.columns, func(of accumulated) bool { return of.column == c })
		if i < 0 {
			key := "projector_row." + c.sql()
			keys, from = append(keys, key), append(from, key)
			continue
		}
		column, set := a.columns[i].sqlParts(a.position)
		from, sets = append(from, column), append(sets, c.sql()+" = "+set)
	}
	return fmt.Sprintf("insert into %s as t (%s) select %s from %s projector_row group by %[5]s order by %[5]s on conflict (%[6]s) do %[7]s",
		relation, columnList(a.model.columns), strings.Join(from, ", "), source, strings.Join(keys, ", "), columnList(a.model.keys), conflict(sets))
}

func conflict(sets []string) string {
	if len(sets) == 0 {
		return "nothing"
	}
	return "update set " + strings.Join(sets, ", ")
}

// sqlParts returns what a column is of the rows of one key, and of that and the row of the table.
func (c *accumulated) sqlParts(position *column) (of, set string) {
	name := c.sql()
	row, order := "projector_row."+name, ""
	if (c.rule == ruleMin || c.rule == ruleMax) && c.text() {
		order = ` collate pg_catalog."C"`
	}
	switch c.rule {
	case ruleMin:
		return fmt.Sprintf("pg_catalog.min(%s%s)", row, order), fmt.Sprintf("least(t.%[1]s%[2]s, excluded.%[1]s)", name, order)
	case ruleMax, rulePosition:
		return fmt.Sprintf("pg_catalog.max(%s%s)", row, order), fmt.Sprintf("greatest(t.%[1]s%[2]s, excluded.%[1]s)", name, order)
	case ruleLast: // the row as one value: an array of arrays would be another thing
		return fmt.Sprintf("((pg_catalog.array_agg(projector_row order by projector_row.%s desc))[1]).%s", position.sql(), name),
			fmt.Sprintf("case when excluded.%[2]s >= t.%[2]s then excluded.%[1]s else t.%[1]s end", name, position.sql())
	}
	return fmt.Sprintf("pg_catalog.sum(%s)", row), fmt.Sprintf("t.%[1]s + excluded.%[1]s", name)
}

// failed says what PostgreSQL has against adding to the table.
func (a *accumulation) failed(table string, err error) error {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == invalidColumnReference {
		return fmt.Errorf("table %s: no primary key or unique index has the columns (%s) and no others, and rows are added to by these: "+
			"add it to %s.sql or %[3]s.indexes.sql", table, columnList(a.model.keys), a.model.table)
	}
	return tableError(table, err)
}

// invalidColumnReference is the SQLSTATE of an ON CONFLICT that no index fits.
const invalidColumnReference = "42P10"
