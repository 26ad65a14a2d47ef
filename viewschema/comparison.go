package viewschema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Tables are compared by the sums of their rows' hashes, which PostgreSQL computes in parallel: of hashes of what it prints for a row.
// If they differ, the same is done in buckets, by the hash of the rows' key, and rows are looked at in buckets that differ. It is
// sums, and not an exclusive or, in which equal rows cancel out.
const (
	buckets       = 4096 // a power of 2
	shownExamples = 3    // of each kind
)

// comparison is what is compared in a pair of tables.
type comparison struct {
	built, live string   // relations
	columns     []string // that both have
	key         []string // of these, and no two rows of a table have the same; none: whole rows are compared
}

// comparePair compares two tables.
func (s *Schema) comparePair(ctx context.Context, tx pgx.Tx, p pair) (TableComparison, error) {
	t := TableComparison{
		Table: p.Table, New: p.isNew(), Unseen: []string{}, Key: []string{}, Columns: []ColumnDifference{},
		OnlyBuiltColumns: []string{}, OnlyLiveColumns: []string{}, Examples: []RowExample{},
	}
	t.ExpectedColumns, t.Expected = s.expected(p.Table)
	if t.New || t.Expected {
		return t, nil
	}
	c := p.align(&t)
	c.built, c.live = pg.Table(s.def.Schema, p.Built), pg.Table(s.def.Schema, p.Table)
	differ, err := c.sum(ctx, tx, &t)
	if err != nil || !differ {
		return t, err
	}
	differing, err := c.differing(ctx, tx)
	if err != nil {
		return t, err
	}
	err = c.compareRows(ctx, tx, differing, &t)
	t.Unexplained = t.OnlyBuilt+t.OnlyLive+t.Differ == 0
	return t, err
}

// align finds the columns that can be compared, and those that cannot.
func (p pair) align(t *TableComparison) (c comparison) {
	built, live := p.built.names(), p.live.names()
	for _, column := range built {
		switch {
		case slices.Contains(t.ExpectedColumns, column):
		case !slices.Contains(live, column):
			t.OnlyBuiltColumns = append(t.OnlyBuiltColumns, column)
		case slices.Contains(p.built.numbered(), column) && slices.Contains(p.live.numbered(), column):
			t.Unseen = append(t.Unseen, column)
		default:
			c.columns = append(c.columns, column)
		}
	}
	for _, column := range live {
		if !slices.Contains(t.ExpectedColumns, column) && !slices.Contains(built, column) {
			t.OnlyLiveColumns = append(t.OnlyLiveColumns, column)
		}
	}
	if key, former := p.built.key(), p.live.key(); len(former) > 0 && isSubset(former, key) && isSubset(key, c.columns) {
		t.Key, c.key = key, key
	}
	return c
}

func isSubset(some, of []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(of, s) })
}

// printed is SQL for what PostgreSQL prints for these columns of t together.
func printed(columns []string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = "t." + pgx.Identifier{c}.Sanitize()
	}
	return "row(" + strings.Join(list, ", ") + ")::text"
}

// cells is SQL for an array of what it prints for each, by the same functions: casts to text print some types otherwise. They are compared
// byte by byte, whatever their collation.
func cells(columns []string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		name := "t." + pgx.Identifier{c}.Sanitize()
		list[i] = fmt.Sprintf(`case when %[1]s is distinct from null then pg_catalog.format('%%s', %[1]s) collate "C" end`, name)
	}
	return "array[" + strings.Join(list, ", ") + "]::text[]"
}

// identity are the columns that rows are known by.
func (c comparison) identity() []string {
	if len(c.key) == 0 {
		return c.columns
	}
	return c.key
}

// bucket is SQL for the bucket of a row.
func (c comparison) bucket() string {
	return fmt.Sprintf("hashtextextended(%s, 0) & %d", printed(c.identity()), buckets-1)
}

// sum counts the rows of both tables, and says whether they differ.
func (c comparison) sum(ctx context.Context, tx pgx.Tx, t *TableComparison) (differ bool, err error) {
	sum := fmt.Sprintf("select count(*) as rows, sum(hashtextextended(%s, 1)) as hashes", printed(c.columns))
	err = tx.QueryRow(ctx, fmt.Sprintf(`
		select b.rows, l.rows, (b.rows, b.hashes) is distinct from (l.rows, l.hashes)
		from (%[1]s from %[2]s t) b, (%[1]s from %[3]s t) l`, sum, c.built, c.live)).Scan(&t.BuiltRows, &t.LiveRows, &differ)
	return differ, err
}

// differing returns the buckets that differ. "offset 0" hides from the planner what a bucket is made of: it would take every key for
// one, and sort the table.
func (c comparison) differing(ctx context.Context, tx pgx.Tx) (list []int64, err error) {
	hash := fmt.Sprintf("select %s as bucket, hashtextextended(%s, 1) as hash", c.bucket(), printed(c.columns))
	err = tx.QueryRow(ctx, fmt.Sprintf(`
		with built as (select bucket, count(*) as rows, sum(hash) as hashes from (%[1]s from %[2]s t offset 0) r group by 1),
		live as (select bucket, count(*) as rows, sum(hash) as hashes from (%[1]s from %[3]s t offset 0) r group by 1)
		select coalesce(array_agg(coalesce(b.bucket, l.bucket)), '{}')
		from built b full join live l on l.bucket = b.bucket
		where (b.rows, b.hashes) is distinct from (l.rows, l.hashes)`, hash, c.built, c.live)).Scan(&list)
	return list, err
}

// rows is SQL for the rows of a relation that are in the buckets $1: what they are known by, and their values. Rows that are
// known as a whole are numbered if they are the same.
func (c comparison) rows(relation string) string {
	list := fmt.Sprintf("select %s as key, %s as cells from %s t where %s = any ($1)", cells(c.identity()), cells(c.columns), relation, c.bucket())
	if len(c.key) > 0 {
		return list
	}
	return fmt.Sprintf("select *, row_number() over (partition by key) as number from (%s) r", list)
}

// compareRows compares the rows in these buckets.
func (c comparison) compareRows(ctx context.Context, tx pgx.Tx, differing []int64, t *TableComparison) error {
	on := "l.key = b.key"
	if len(c.key) == 0 {
		on += " and l.number = b.number"
	}
	const both = "built is not null and live is not null"
	counts := []string{"count(*) filter (where live is null)", "count(*) filter (where built is null)", "count(*) filter (where " + both + ")"}
	for i := range c.columns {
		counts = append(counts, fmt.Sprintf("count(*) filter (where %s and built[%d] is distinct from live[%[2]d])", both, i+1))
	}
	rows, err := tx.Query(ctx, fmt.Sprintf(`
		with built as (%s), live as (%s),
		differing as materialized (
			select b.cells as built, l.cells as live
			from built b full join live l on %s
			where b.cells is distinct from l.cells
		)
		select array[%s], null::text[], null::text[] from differing
		union all (select null, built, live from differing where live is null order by built limit %[5]d)
		union all (select null, built, live from differing where built is null order by live limit %[5]d)
		union all (select null, built, live from differing where %[6]s order by built limit %[5]d)`,
		c.rows(c.built), c.rows(c.live), on, strings.Join(counts, ", "), shownExamples, both), differing)
	if err != nil {
		return err
	}
	var counted []int64
	var built, live []*string
	_, err = pgx.ForEachRow(rows, []any{&counted, &built, &live}, func() error {
		if counted == nil {
			t.Examples = append(t.Examples, c.example(built, live))
			return nil
		}
		t.OnlyBuilt, t.OnlyLive, t.Differ = counted[0], counted[1], counted[2]
		for i, n := range counted[3:] {
			if n > 0 {
				t.Columns = append(t.Columns, ColumnDifference{c.columns[i], n})
			}
		}
		return nil
	})
	return err
}

// example makes an example of a row's values in both tables; nil: there is no such row.
func (c comparison) example(built, live []*string) RowExample {
	e := RowExample{Key: map[string]*string{}}
	if built != nil {
		e.Built = map[string]*string{}
	}
	if live != nil {
		e.Live = map[string]*string{}
	}
	for i, column := range c.columns {
		switch {
		case slices.Contains(c.key, column) && built != nil:
			e.Key[column] = built[i]
		case slices.Contains(c.key, column):
			e.Key[column] = live[i]
		case built == nil:
			e.Live[column] = live[i]
		case live == nil:
			e.Built[column] = built[i]
		case !same(built[i], live[i]):
			e.Built[column], e.Live[column] = built[i], live[i]
		}
	}
	return e
}

func same(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }
