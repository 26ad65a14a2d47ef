package projections

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"sort"
	"unsafe"
)

// Index finds the rows that share a value of type G, ordered by a value of type O; rows that are alike in both come in the
// order of their keys. Like Rows it sees the rows of the event's aggregate only.
type Index[G comparable, O Ordered, R any] struct {
	model  *model
	number int  // among the table's indexes
	single bool // the group is the aggregate's id: an aggregate has one group
	by     func(*R) (G, O)
	open   func(*Store) (indexed[R], error)
	last   func(*Store) (indexed[R], error) // open, for Last only
}

// Ordered is what an index can order by.
type Ordered interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~string
}

// NewIndex declares an index over two columns of t; by returns their values. The table's SQL should have the same index.
// It belongs beside the declaration of t: before any run, and not while other goroutines use t. It panics if t has no such
// columns, or the database numbers one.
func NewIndex[G comparable, O Ordered, K comparable, R any](t *Rows[K, R], group, order string, by func(*R) (G, O)) *Index[G, O, R] {
	for _, name := range []string{group, order} {
		if t.model.column(name) == nil {
			t.model.refuse("an index names column %s, which the model does not have", name)
		}
	}
	isAggregate(t.model, "an index", func(r *R) O { _, o := by(r); return o })
	x := &Index[G, O, R]{
		model:  t.model,
		number: len(t.indexes),
		single: isAggregate(t.model, "an index", func(r *R) G { g, _ := by(r); return g }),
		by:     by,
		open: func(s *Store) (indexed[R], error) {
			tab, err := t.in(s)
			return tab, err
		},
	}
	x.last = x.open
	if column := returned(t.model, func(r *R) O { _, o := by(r); return o }); x.single && column != nil && column.name == order {
		x.last = func(s *Store) (indexed[R], error) {
			tab, err := t.state(s)
			if err == nil && !tab.ready {
				err = tab.some()
			}
			if err == nil {
				err = tab.lasts(x.number, column)
			}
			return tab, err
		}
	}
	t.indexes = append(t.indexes, x.newGroups)
	grouped := newLookup{column: group}
	if columns := partsOf(t.model, func(r *R) G { g, _ := by(r); return g }); len(columns) == 1 && columns[0].name == group {
		grouped = newLookup{make: func() lookup { return &asked[G]{columns: columns} }}
	}
	t.lookups = append(t.lookups, grouped)
	return x
}

// Last returns a copy of the last row of the group; ok is false and row zero if there is none.
//
// If the group is the aggregate's id, the order an integer column that is not null, and the key a column with a unique index
// of its own, then a handler that does nothing but Last and Create with the table has one row of each aggregate loaded, and
// not all.
func (x *Index[G, O, R]) Last(s *Store, group G) (row R, ok bool, err error) {
	tab, err := x.last(s)
	if err != nil {
		return row, false, err
	}
	items, err := x.items(s, tab, group)
	if len(items) == 0 {
		return row, false, err
	}
	return items[len(items)-1].entry.row, true, nil
}

// First is Last from the other end.
func (x *Index[G, O, R]) First(s *Store, group G) (row R, ok bool, err error) {
	items, _, err := x.find(s, group)
	if len(items) == 0 {
		return row, false, err
	}
	return items[0].entry.row, true, nil
}

// All returns copies of the group's rows in order. The loop may change rows: it does not see rows that it creates, nor
// those that it deletes before their turn.
func (x *Index[G, O, R]) All(s *Store, group G) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		items, _, err := x.find(s, group)
		if err != nil {
			var zero R
			yield(zero, err)
			return
		}
		for _, e := range entries(items) {
			if !e.gone && !yield(e.row, nil) {
				return
			}
		}
	}
}

// Update changes all rows of the group in order and returns their number. See Rows.Update for what fn may do.
func (x *Index[G, O, R]) Update(s *Store, group G, fn func(*R)) (int, error) {
	items, tab, err := x.find(s, group)
	if err != nil {
		return 0, err
	}
	return tab.changeAll(entries(items), fn)
}

// Delete removes all rows of the group and returns their number.
func (x *Index[G, O, R]) Delete(s *Store, group G) (int, error) {
	items, tab, err := x.find(s, group)
	if err != nil {
		return 0, err
	}
	return tab.removeAll(entries(items))
}

func (x *Index[G, O, R]) find(s *Store, group G) ([]item[O, R], indexed[R], error) {
	tab, err := x.open(s)
	if err != nil {
		return nil, nil, err
	}
	items, err := x.items(s, tab, group)
	return items, tab, err
}

func (x *Index[G, O, R]) items(s *Store, tab indexed[R], group G) ([]item[O, R], error) {
	if asked, ok := tab.lookup(x.number).(*asked[G]); ok {
		if !asked.need(group) {
			if err := tab.missing(); err != nil {
				return nil, err
			}
		}
	} else if x.single && !x.model.owned(s.run, unsafe.Pointer(&group)) {
		return nil, fmt.Errorf("%s %s: %w", x.model.table, printKey(group), ErrForeign)
	}
	return *tab.grouping(x.number).(*groups[G, O, R]).at(group), nil
}

// indexed is a table as an index sees it, which does not know the type of the key.
type indexed[R any] interface {
	lookup(index int) lookup
	missing() error
	grouping(index int) grouping[R]
	compare(a, b *entry[R]) int
	changeAll(es []*entry[R], fn func(*R)) (int, error)
	removeAll(es []*entry[R]) (int, error)
}

// grouping is the state of an index in one scope, as the table sees it.
type grouping[R any] interface {
	insert(e *entry[R])
	remove(e *entry[R])
	note(e *entry[R])  // before the row changes
	noted(e *entry[R]) // after it did
	clear() (reusable bool)
}

// grouping builds the index when the current aggregate first uses it.
func (t *table[K, R]) grouping(index int) grouping[R] {
	sc := t.current
	for len(sc.groups) <= index {
		sc.groups = append(sc.groups, nil)
	}
	g := sc.groups[index]
	if g == nil {
		if index < len(sc.idle) {
			g, sc.idle[index] = sc.idle[index], nil
		}
		if g == nil {
			g = t.rows.indexes[index](t)
		}
		sc.groups[index] = g
		for _, e := range t.sorted() {
			g.insert(e)
		}
	}
	return g
}

type groups[G comparable, O Ordered, R any] struct {
	*Index[G, O, R]
	table indexed[R]
	one   bool                // the group is the scope's id
	only  []item[O, R]        // then
	byKey map[G]*[]item[O, R] // else

	group G // of the row that is being changed
	order O
}

type item[O Ordered, R any] struct {
	order O
	entry *entry[R]
}

func (x *Index[G, O, R]) newGroups(t indexed[R]) grouping[R] {
	return &groups[G, O, R]{Index: x, table: t, one: x.single && t.lookup(x.number) == nil}
}

func (g *groups[G, O, R]) at(group G) *[]item[O, R] {
	if g.one {
		return &g.only
	}
	items := g.byKey[group]
	if items == nil {
		items = new([]item[O, R])
		if g.byKey == nil {
			g.byKey = map[G]*[]item[O, R]{}
		}
		g.byKey[group] = items
	}
	return items
}

func (g *groups[G, O, R]) compare(a, b item[O, R]) int {
	if c := cmp.Compare(a.order, b.order); c != 0 {
		return c
	}
	return g.table.compare(a.entry, b.entry)
}

func (g *groups[G, O, R]) insert(e *entry[R]) {
	group, order := g.by(&e.row)
	items, it := g.at(group), item[O, R]{order, e}
	if n := len(*items); n == 0 || g.compare((*items)[n-1], it) < 0 {
		*items = append(*items, it)
		return
	}
	i := sort.Search(len(*items), func(i int) bool { return g.compare((*items)[i], it) > 0 })
	*items = slices.Insert(*items, i, it)
}

func (g *groups[G, O, R]) remove(e *entry[R]) {
	group, order := g.by(&e.row)
	g.take(e, group, order)
}

func (g *groups[G, O, R]) take(e *entry[R], group G, order O) {
	items := g.at(group)
	i := sort.Search(len(*items), func(i int) bool { return (*items)[i].order >= order })
	for (*items)[i].entry != e {
		i++
	}
	*items = slices.Delete(*items, i, i+1)
}

func (g *groups[G, O, R]) note(e *entry[R]) { g.group, g.order = g.by(&e.row) }

func (g *groups[G, O, R]) noted(e *entry[R]) {
	if group, order := g.by(&e.row); group != g.group || order != g.order {
		g.take(e, g.group, g.order)
		g.insert(e)
	}
}

// clear empties the one group for the next aggregate, which may not use the index at all: it is then kept for nothing, at
// the price of an append per row.
func (g *groups[G, O, R]) clear() bool {
	clear(g.only)
	g.only = shortened(g.only)
	g.byKey = nil
	return g.one
}

func entries[O Ordered, R any](items []item[O, R]) []*entry[R] {
	es := make([]*entry[R], len(items))
	for i, it := range items {
		es[i] = it.entry
	}
	return es
}
