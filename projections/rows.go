package projections

import (
	"errors"
	"fmt"
	"iter"
	"reflect"
	"unsafe"
)

// Rows is a view table of rows R with key K: a handle, declared once, to the rows that a Store keeps. R is a bun model with
// one column tagged view:"aggregate", which holds the id of the aggregate that the row belongs to (an only primary key
// that is a UUID or a string needs no tag).
//
// All methods see the rows of the event's aggregate only (see Order for others), and work on copies: rows passed in and returned are the caller's,
// except that maps and slices in them are shared and must not be changed in place outside of a function passed to Update.
// A failed method has changed nothing.
type Rows[K comparable, R any] struct {
	model   *model
	key     func(*R) K
	compare func(a, b K) int
	single  bool // the key is the aggregate's id: an aggregate has one row

	keyColumn  *column   // that is the key, if it is one by itself and the key is not the aggregate's id
	keyColumns []*column // of which the key is made; nil if it is made of something else
	indexes    []func(indexed[R]) grouping[R]
	lookups    []newLookup // by index
}

// NewRows declares the view table of R. key returns what tells a row from all others, from the row's fields alone: the
// primary key, or another unique value if the database numbers that. It panics if key, tags or column types do not fit.
func NewRows[K comparable, R any](key func(*R) K) *Rows[K, R] {
	m := newModel(reflect.TypeFor[R]())
	t := &Rows[K, R]{model: m, key: key, compare: keyOrder[K](m), single: isAggregate(m, "the key", key)}
	if !t.single {
		t.keyColumn = returned(m, key)
	}
	t.keyColumns = partsOf(m, key)
	return t
}

// TableName returns the name of the table, without schema and suffix.
func (t *Rows[K, R]) TableName() string { return t.model.table }

func (t *Rows[K, R]) isTable() {}

func (t *Rows[K, R]) shape() *model { return t.model }

// Create adds rows: all of them, or none and ErrExists if a key is taken, ErrForeign if one is another aggregate's.
func (t *Rows[K, R]) Create(s *Store, rows ...R) error {
	tab, err := t.state(s)
	if err == nil && !tab.ready {
		err = tab.some()
	}
	if err != nil {
		return err
	}
	if err := tab.needAll(rows); err != nil {
		return err
	}
	first := len(tab.created)
	for i := range rows {
		e := tab.stage()
		e.row = rows[i]
		if err := tab.create(e); err != nil {
			_, undo := tab.removeAll(tab.created[first:])
			return errors.Join(err, undo)
		}
	}
	return nil
}

// Put adds the row, or replaces the one with its key.
func (t *Rows[K, R]) Put(s *Store, row R) error {
	tab, err := t.in(s)
	if err != nil {
		return err
	}
	if err := tab.needAll([]R{row}); err != nil {
		return err
	}
	staged := tab.stage()
	staged.row = row
	if e := tab.find(t.key(&staged.row)); e != nil {
		return tab.replace(e, staged)
	}
	return tab.create(staged)
}

// Get returns a copy of a row, or ErrNotFound.
func (t *Rows[K, R]) Get(s *Store, key K) (R, error) {
	_, e, err := t.entry(s, key)
	if err != nil {
		var zero R
		return zero, err
	}
	return e.row, nil
}

// Find is Get for rows that may not exist.
func (t *Rows[K, R]) Find(s *Store, key K) (row R, ok bool, err error) {
	tab, err := t.at(s, key)
	if err != nil {
		return row, false, err
	}
	if e := tab.find(key); e != nil {
		return e.row, true, nil
	}
	return row, false, nil
}

// Update changes a row, or returns ErrNotFound. The pointer is fn's only until it returns. The key and the aggregate must
// stay (ErrKey, ErrForeign), and fn cannot use the same table (ErrNested).
func (t *Rows[K, R]) Update(s *Store, key K, fn func(*R)) error {
	tab, e, err := t.entry(s, key)
	if err != nil {
		return err
	}
	return tab.change(e, fn)
}

// Upsert is Update for rows that may not exist: fn then gets a zero row, has to set its key and its aggregate's id, and
// exists is false.
func (t *Rows[K, R]) Upsert(s *Store, key K, fn func(row *R, exists bool)) error {
	tab, err := t.at(s, key)
	if err != nil {
		return err
	}
	if e := tab.find(key); e != nil {
		return tab.change(e, func(r *R) { fn(r, true) })
	}
	staged := tab.stage()
	tab.using(func() { fn(&staged.row, false) })
	if t.key(&staged.row) != key {
		tab.slab.giveBack()
		return t.fail(key, ErrKey)
	}
	return tab.create(staged)
}

// Delete removes a row, or returns ErrNotFound.
func (t *Rows[K, R]) Delete(s *Store, key K) error {
	tab, e, err := t.entry(s, key)
	if err != nil {
		return err
	}
	return tab.remove(e)
}

// All returns copies of the aggregate's rows in the order of their keys. The loop may change rows: it does not see rows
// that it creates, nor those that it deletes before their turn.
func (t *Rows[K, R]) All(s *Store) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		tab, err := t.all(s)
		if err != nil {
			var zero R
			yield(zero, err)
			return
		}
		for _, e := range tab.sorted() {
			if !e.gone && !yield(e.row, nil) {
				return
			}
		}
	}
}

// UpdateAll changes all rows of the aggregate, in the order of their keys, and returns their number.
func (t *Rows[K, R]) UpdateAll(s *Store, fn func(*R)) (int, error) {
	tab, err := t.all(s)
	if err != nil {
		return 0, err
	}
	return tab.changeAll(tab.sorted(), fn)
}

// DeleteAll removes all rows of the aggregate and returns their number.
func (t *Rows[K, R]) DeleteAll(s *Store) (int, error) {
	tab, err := t.all(s)
	if err != nil {
		return 0, err
	}
	return tab.removeAll(tab.sorted())
}

// in finds the table's state in the store, ready for the current aggregate.
func (t *Rows[K, R]) in(s *Store) (*table[K, R], error) {
	tab, err := t.state(s)
	if err != nil || tab.ready {
		return tab, err
	}
	return tab, tab.prepare()
}

// all is in for all rows.
func (t *Rows[K, R]) all(s *Store) (*table[K, R], error) {
	tab, err := t.in(s)
	if err == nil && tab.keys != nil {
		err = fmt.Errorf("%s: %w", t.model.table, ErrAllRows)
	}
	return tab, err
}

// state finds the table's state in the store.
func (t *Rows[K, R]) state(s *Store) (*table[K, R], error) {
	for i, m := range s.models {
		if m == t.model {
			return s.states[i].(*table[K, R]), nil
		}
	}
	return nil, fmt.Errorf("%s: %w", t.model.table, ErrOwner)
}

// at is in for a key, which may be visibly another aggregate's.
func (t *Rows[K, R]) at(s *Store, key K) (*table[K, R], error) {
	tab, err := t.in(s)
	if err == nil {
		err = tab.need(key)
	}
	if err == nil && tab.single && !t.model.owned(s.run, unsafe.Pointer(&key)) {
		err = t.fail(key, ErrForeign)
	}
	return tab, err
}

func (t *Rows[K, R]) entry(s *Store, key K) (*table[K, R], *entry[R], error) {
	tab, err := t.at(s, key)
	if err != nil {
		return nil, nil, err
	}
	if e := tab.find(key); e != nil {
		return tab, e, nil
	}
	return nil, nil, t.fail(key, ErrNotFound)
}

func (t *Rows[K, R]) fail(key K, err error) error {
	return fmt.Errorf("%s %s: %w", t.model.table, printKey(key), err)
}
