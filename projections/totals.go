package projections

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"unsafe"

	"github.com/jackc/pgx/v5"
)

// Totals is an accumulating view table: rows with one primary key are put together, in whatever order they come and
// whatever aggregates they come from. It is a handle, declared once, to which handlers can add, and which they cannot read:
// so no handler depends on an order.
type Totals[R any] struct{ by *accumulation }

// NewTotals declares the accumulating table of R, a bun model. Every column that is not in the primary key is tagged with
// what becomes of the values that are added:
//
//	view:"sum"       their sum: integers
//	view:"count"     how many rows were added: integers; the field stays zero, Add counts
//	view:"min"       the smallest: integers, strings in the order of their bytes, time.Time, and pointers to these, of which
//	view:"max"       nil is no value; the largest
//	view:"last"      that of the row that was added for the highest position: any type
//	view:"position"  that position, an int64, which "last" needs; the field stays zero, Add fills it in
//
// The table's SQL needs a primary key or a unique index on the key's columns. NewTotals panics if a tag is missing or does
// not fit the column, and for floats: their sums depend on the order.
func NewTotals[R any]() *Totals[R] { return &Totals[R]{newAccumulation(reflect.TypeFor[R]())} }

// TableName returns the name of the table, without schema and suffix.
func (t *Totals[R]) TableName() string { return t.by.model.table }

func (t *Totals[R]) isTable() {}

func (t *Totals[R]) shape() *model { return t.by.model }

func (t *Totals[R]) rules() *accumulation { return t.by }

// Add adds the row to the one with its key, or makes that. ErrOwner if the table is another projector's; a sum that does not
// fit into its field is an error, too.
func (t *Totals[R]) Add(s *Store, row R) error {
	for i, m := range s.models {
		if m == t.by.model {
			return s.states[i].(*totals[R]).add(row)
		}
	}
	return fmt.Errorf("%s: %w", t.by.model.table, ErrOwner)
}

// totals is the state of Totals in one run. Rows of all aggregates are put together; what is in memory and what is in the
// table are, when the run flushes.
type totals[R any] struct {
	target
	by   *accumulation
	rows map[string]*R // by key; see model.encodeKey
	slab slab[R]

	key    []byte
	added  R
	merged R
}

// mostTotals is how many rows a rebuild puts together before it lets go of them. More may be stored for one key then.
const mostTotals = 50_000

func (t *Totals[R]) open(s *Store) state {
	tab := &totals[R]{target: target{model: t.by.model, run: s.run}, by: t.by, rows: map[string]*R{}}
	tab.check = tab.checkTable
	return tab
}

func (t *totals[R]) add(row R) error {
	if t.run.leaves {
		return nil
	}
	t.added = row
	added := unsafe.Pointer(&t.added)
	if err := t.by.stamp(added, t.run.position); err != nil {
		return t.run.fail(fmt.Errorf("%s: %w", t.model.table, err))
	}
	t.plan.settle(added)
	t.key = t.model.encodeKey(t.key[:0], added)
	into := t.rows[string(t.key)]
	if into == nil {
		into = t.slab.take()
		*into = t.added
		t.rows[string(t.key)] = into
		return nil
	}
	t.merged = *into
	if err := t.by.merge(unsafe.Pointer(&t.merged), added); err != nil {
		return t.run.fail(fmt.Errorf("%s %s: %w", t.model.table, t.by.printKey(added), err))
	}
	*into = t.merged
	return nil
}

// sorted yields the rows in the order of their keys.
func (t *totals[R]) sorted(yield func(row *R) bool) {
	for _, key := range slices.Sorted(maps.Keys(t.rows)) {
		if !yield(t.rows[key]) {
			return
		}
	}
}

func (t *totals[R]) base() *target { return &t.target }

func (t *totals[R]) enter() {}

func (t *totals[R]) spill() error {
	if len(t.rows) < mostTotals {
		return nil
	}
	err := t.collect()
	t.release()
	return err
}

func (t *totals[R]) collect() error {
	for row := range t.sorted {
		if err := t.encode(unsafe.Pointer(row)); err != nil {
			return fmt.Errorf("%s %s: %w", t.model.table, t.by.printKey(unsafe.Pointer(row)), err)
		}
	}
	return nil
}

func (t *totals[R]) encode(row unsafe.Pointer) error {
	if t.run.parts {
		return t.insert(row)
	}
	values, err := t.encoded.keep(t.plan, row)
	t.updates = append(t.updates, image{values: values})
	return err
}

// write stores what is collected: as it is in the side table, which has no key, so that no batch waits for another one; or
// added to the rows of the table. The order of keys is PostgreSQL's, so that two transactions lock rows in the same order.
func (t *totals[R]) write(ctx context.Context, conn *pgx.Conn) (int64, error) {
	if t.run.parts {
		_, err := t.copy(ctx, conn, &t.inserts, t.model.columns)
		return 0, err // they are counted when they are merged
	}
	if len(t.updates) == 0 {
		return 0, nil
	}
	add := statement{sql: t.by.addTo(t.relation, "pg_catalog.unnest($1)"), params: [][]byte{t.rowArray(t.updates, nil)}, oids: []uint32{t.plan.shape[0].Rows}}
	tag, err := add.run(ctx, conn, nil)
	if err != nil {
		return 0, t.by.failed(t.name, err)
	}
	return tag.RowsAffected(), nil
}

func (t *totals[R]) reset() {
	t.release()
	t.target.reset()
}

func (t *totals[R]) release() {
	t.rows = emptied(t.rows, len(t.rows))
	t.slab.reset()
}

func (t *totals[R]) forget() (int64, error) {
	if t.run.leaves {
		return 0, nil
	}
	return 0, fmt.Errorf("%s: %w", t.name, ErrTotals)
}

func (t *totals[R]) reload() error {
	t.release()
	return nil
}

func (t *totals[R]) taken() (bool, error) { return false, nil }

func (t *totals[R]) guessed() (stay, gone bool) { return false, false }

// checkTable finds columns that cannot hold what is added up, and the key's index missing, which PostgreSQL knows best.
func (t *totals[R]) checkTable(ctx context.Context, conn *pgx.Conn) error {
	if err := t.by.checkColumns(t.name, t.plan); err != nil || t.run.parts || t.run.loads {
		return err
	}
	if conn.PgConn().TxStatus() == 'E' { // by another table without a key, which is said
		return nil
	}
	if _, err := conn.PgConn().Exec(ctx, "explain "+t.by.addTo(t.relation, t.relation)).ReadAll(); err != nil {
		return t.by.failed(t.name, err)
	}
	return nil
}
