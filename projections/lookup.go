package projections

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// Handlers of a projector with the order ByPosition see all rows, and tables are too large to be loaded. So rows are loaded by
// what handlers ask for: keys, and groups of an index. To do so with few queries, a batch is applied several times. In the first
// passes, whatever is not loaded yet is taken down and refused with errMissing, and the handlers' work is thrown away. The pass
// that misses nothing counts; in the last one, what is missing is loaded at once. Handlers depend on the event and the rows
// alone, so they cannot tell.

// errMissing is the reason to apply the batch again. No handler's error hides it: the run notes it, too.
var errMissing = errors.New("a row that is not loaded yet")

// gatherings is how many passes take down what is missing. The second finds what a handler asks for that has got an answer.
const gatherings = 2

// flushByPosition applies the batch and stores its rows.
func (r *Run) flushByPosition() (int64, error) {
	for pass := 1; ; pass++ {
		r.gathering, r.missed = pass <= gatherings, false
		if err := r.applyAll(); err != nil {
			return 0, r.fail(err)
		}
		if !r.missed {
			return r.flush()
		}
		r.broken = nil
		for _, t := range r.tables {
			if err := t.reload(); err != nil {
				return 0, r.fail(err)
			}
		}
	}
}

// applyAll applies the batch once. As long as nothing was missed, what handlers report is so; after that it may come of it.
func (r *Run) applyAll() error {
	for _, a := range r.history {
		if err := r.apply(a); err != nil && !r.missed {
			return err
		}
	}
	return nil
}

// lookup is what handlers have asked a table for, by its key or by the group of an index.
type lookup interface {
	// pending returns the values that are to be loaded, as text, column by column.
	pending() [][]string
	loaded()
	// again marks all as to be loaded.
	again()
	forget()
	names() []*column
}

// asked is a lookup by values of type V.
type asked[V comparable] struct {
	columns []*column // of which V is made
	here    map[V]bool
	open    int // of here, how many are false: to be loaded
}

// need says whether the rows with the value are here, and takes down that they have to be.
func (a *asked[V]) need(v V) bool {
	here, known := a.here[v]
	if !known {
		if a.here == nil {
			a.here = map[V]bool{}
		}
		a.here[v] = false
		a.open++
	}
	return here
}

// has notes that the row of a key is here.
func (a *asked[V]) has(v V) {
	if here, known := a.here[v]; known && !here {
		a.open--
	}
	if a.here == nil {
		a.here = map[V]bool{}
	}
	a.here[v] = true
}

func (a *asked[V]) pending() [][]string {
	if a.open == 0 {
		return nil
	}
	values := make([][]string, len(a.columns))
	for v, here := range a.here {
		if here {
			continue
		}
		of := reflect.ValueOf(v)
		for i := range a.columns {
			part := of
			if of.Kind() == reflect.Struct {
				part = of.Field(i)
			}
			values[i] = append(values[i], keyText(part))
		}
	}
	return values
}

func (a *asked[V]) loaded() {
	for v, here := range a.here {
		if !here {
			a.here[v] = true
		}
	}
	a.open = 0
}

func (a *asked[V]) again() {
	for v := range a.here {
		a.here[v] = false
	}
	a.open = len(a.here)
}

func (a *asked[V]) forget() { a.here, a.open = emptied(a.here, len(a.here)), 0 }

func (a *asked[V]) names() []*column { return a.columns }

// newLookup makes the lookup of an index, or says which column its group is not.
type newLookup struct {
	column string // empty: make is not nil
	make   func() lookup
}

// need makes sure that the row with the key is here, if there is one.
func (t *table[K, R]) need(key K) error {
	if t.keys == nil || t.keys.need(key) {
		return nil
	}
	return t.missing()
}

// needAll is need for rows that are to be created.
func (t *table[K, R]) needAll(rows []R) (err error) {
	if t.keys == nil {
		return nil
	}
	for i := range rows {
		e := t.stage()
		e.row = rows[i]
		key := t.rows.key(&e.row)
		t.slab.giveBack()
		err = errors.Join(err, t.need(key))
	}
	return err
}

// missing loads what was asked for, or leaves it to the next pass.
func (t *table[K, R]) missing() error {
	if t.run.keeps { // all rows are here
		return nil
	}
	if t.run.gathering {
		t.run.missed = true
		return fmt.Errorf("%s: %w", t.model.table, errMissing)
	}
	return t.run.failing(t.look())
}

// lookup returns what was asked of an index; nil if its rows are here anyway.
func (t *table[K, R]) lookup(index int) lookup {
	if t.keys == nil {
		return nil
	}
	for len(t.byGroup) < len(t.rows.lookups) {
		t.byGroup = append(t.byGroup, t.rows.lookups[len(t.byGroup)].make())
	}
	return t.byGroup[index]
}

// reload forgets the rows, and loads all that was asked for.
func (t *table[K, R]) reload() error {
	t.forgetRows()
	t.keys.again()
	for _, l := range t.byGroup {
		l.again()
	}
	return t.look()
}

// look loads what was asked for and is not here.
func (t *table[K, R]) look() error {
	t.current = t.scope(0)
	for i, l := range append([]lookup{t.keys}, t.byGroup...) {
		values := l.pending()
		if values == nil {
			continue
		}
		err := t.lookUp(l.names(), values, func(numbers []byte, scan func(row unsafe.Pointer) error) error {
			return t.addFound(numbers, scan, i == 0)
		})
		if err != nil {
			return err
		}
		l.loaded()
	}
	return nil
}

// addFound is called with each row that a lookup finds. One that is here already may have changed since it was loaded, or be
// gone.
func (t *table[K, R]) addFound(numbers []byte, scan func(row unsafe.Pointer) error, byKey bool) error {
	e, key, err := t.scanned(numbers, scan)
	if err != nil {
		return err
	}
	switch found := t.find(key) != nil; {
	case t.keys.here[key]:
		t.slab.giveBack()
		return nil
	case found: // by this lookup
		return fmt.Errorf("%s: two rows have this key", printKey(key))
	}
	t.insertIn(t.current, key, e)
	if !byKey {
		t.keys.has(key)
	}
	for _, g := range t.current.groups {
		if g != nil {
			g.insert(e)
		}
	}
	return nil
}

// lookUp reads the rows that have one of the values in these columns. The values come column by column.
func (t *target) lookUp(columns []*column, values [][]string, add adder) error {
	var arrays, names []string
	var params [][]byte
	var oids []uint32
	for i, c := range columns {
		at, _ := t.place(c)
		array, err := t.run.conn.TypeMap().Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, values[i], nil)
		if err != nil {
			return err
		}
		arrays = append(arrays, fmt.Sprintf("pg_catalog.unnest($%d::text[]::%s[])", i+1, t.plan.columns[at].sqlType))
		names, params, oids = append(names, c.sql()), append(params, array), append(oids, pgtype.TextArrayOID)
	}
	sql := fmt.Sprintf("select %s from %s where (%s) in (select * from rows from (%s) u)",
		columnList(slices.Concat(t.model.columns, t.model.numbered)), t.relation, strings.Join(names, ", "), strings.Join(arrays, ", "))
	return t.read(statement{sql: sql, params: params, oids: oids}, add)
}
