package projections

import (
	"context"
	"fmt"
	"slices"
	"unsafe"

	"github.com/jackc/pgx/v5"
)

// state is what a run knows of a table, for the parts of this package that do not care about the types of key and row.
type state interface {
	kept
	base() *target
	// enter makes another aggregate the current one.
	enter()
	// spill encodes what a rebuild need not keep when the next aggregate begins, and forgets it.
	spill() error
	// collect encodes all that is left, or changed since it was loaded.
	collect() error
	// write stores what is encoded.
	write(ctx context.Context, conn *pgx.Conn) (rows int64, err error)
	// forget deletes the rows of the batch's aggregates from the database, and returns their number; an error if the table
	// does not know whose its rows are.
	forget() (rows int64, err error)
	// reset forgets all rows and keeps memory.
	reset()
	// taken asks the database whether a key is taken that was taken to be free.
	taken() (bool, error)
	// guessed says whether rows were created whose keys were taken to be free: such that stay, and such that are gone.
	guessed() (stay, gone bool)
	// reload forgets the rows and loads what was asked for.
	reload() error
}

// entry is a row in memory. Its address is good until reset.
type entry[R any] struct {
	row  R
	gone bool    // removed
	old  *stored // nil: the row is not in the table
}

// stored is a row as it was loaded.
type stored struct {
	numbers []byte // the columns that the database numbered, encoded
	was     []byte // the others, encoded before the row was first changed; nil: it was not
}

// scope holds the rows of one aggregate.
type scope[K comparable, R any] struct {
	only   *entry[R]       // if the key is the scope's id
	rows   map[K]*entry[R] // else
	added  int             // how often rows grew
	groups []grouping[R]   // by index; nil until the index is used
	idle   []grouping[R]   // by index; empty ones, for another aggregate
}

// table is the state of Rows in one run.
type table[K comparable, R any] struct {
	target
	rows     *Rows[K, R]
	single   bool // the key is the scope's id: there is one row
	current  *scope[K, R]
	ready    bool           // current is the current aggregate's, with all its rows
	scoped   bool           // current is the current aggregate's
	lastsOf  int            // the index whose last rows are here, counted from 1; 0: none
	busy     bool           // a function is changing a row
	loadedTo int            // the place of the aggregate of the last row that was loaded
	loaded   bool           // the rows of the batch's aggregates are here
	scopes   []*scope[K, R] // by the place of the aggregate in the batch; nil: none yet
	used     []*scope[K, R] // of them
	spare    []*scope[K, R]
	all      map[K]*entry[R] // in a Memory: the rows of all batches, some of which may be gone
	slab     slab[entry[R]]
	created  []*entry[R]
	changed  []*entry[R] // stored ones

	// What was asked for, if rows are loaded by that; see lookup.go.
	keys    *asked[K]
	byGroup []lookup // by index
}

func (t *Rows[K, R]) open(s *Store) state {
	tab := &table[K, R]{target: target{model: t.model, run: s.run}, rows: t, single: t.single}
	if s.run.order == ByPosition {
		tab.single, tab.keys = false, &asked[K]{columns: t.keyColumns}
	}
	tab.reset()
	return tab
}

func (t *table[K, R]) base() *target { return &t.target }

func (t *table[K, R]) enter() { t.ready, t.scoped = false, false }

// prepare makes the current aggregate's scope current, and loads the batch's rows when the table is first touched.
func (t *table[K, R]) prepare() error {
	if t.busy {
		return fmt.Errorf("%s: %w", t.model.table, ErrNested)
	}
	if t.run.loads {
		if !t.loaded && t.keys == nil {
			if err := t.loadAll(); err != nil {
				return t.run.fail(err)
			}
		}
		t.current = t.scope(t.run.scope)
	}
	t.ready, t.scoped = true, true
	return nil
}

// loadAll loads the rows of the batch's aggregates; some may be here.
func (t *table[K, R]) loadAll() error {
	taken, err := t.taken()
	if err != nil {
		return err
	}
	if taken {
		t.run.taken = true
		return errTaken
	}
	if err := t.load(t.single, t.add); err != nil {
		return err
	}
	t.loaded = true
	for _, sc := range t.used {
		clear(sc.groups) // of a part of the rows
	}
	return nil
}

// scope finds or makes the scope of the batch's i-th aggregate.
func (t *table[K, R]) scope(i int) *scope[K, R] {
	if i >= len(t.scopes) {
		t.scopes = append(t.scopes, make([]*scope[K, R], max(i+1, len(t.run.aggregates.ids))-len(t.scopes))...)
	}
	sc := t.scopes[i]
	if sc == nil {
		if n := len(t.spare); n > 0 {
			sc, t.spare = t.spare[n-1], t.spare[:n-1]
		} else {
			sc = &scope[K, R]{}
		}
		t.scopes[i] = sc
		t.used = append(t.used, sc)
	}
	return sc
}

// scanned makes an entry of a row that is loaded, for the caller to insert or to give back.
func (t *table[K, R]) scanned(numbers []byte, scan func(row unsafe.Pointer) error) (e *entry[R], key K, err error) {
	e = t.slab.take()
	e.old = &stored{numbers: numbers}
	if err := scan(unsafe.Pointer(&e.row)); err != nil {
		return nil, key, err
	}
	t.plan.settle(unsafe.Pointer(&e.row))
	return e, t.rows.key(&e.row), nil
}

// add is called with each row that is loaded.
func (t *table[K, R]) add(numbers []byte, scan func(row unsafe.Pointer) error) error {
	e, key, err := t.scanned(numbers, scan)
	if err != nil {
		return err
	}
	i, ok := t.run.scopeOf(t.model, unsafe.Add(unsafe.Pointer(&e.row), t.model.aggregate.offset), t.loadedTo)
	if !ok {
		return fmt.Errorf("%s: a row of an aggregate that was not asked for: the aggregate's column has to compare exactly", printKey(key))
	}
	t.loadedTo = i
	sc := t.scope(i)
	if here := t.findIn(sc, key); here != nil {
		switch {
		case here.old == nil:
			t.run.taken = true
			return errTaken
		case t.lastsOf != 0: // and nothing has changed it since
			t.slab.giveBack()
			return nil
		}
		return fmt.Errorf("%s: two rows have this key", printKey(key))
	}
	t.insertIn(sc, key, e)
	return nil
}

func (t *table[K, R]) find(key K) *entry[R] { return t.findIn(t.current, key) }

func (t *table[K, R]) findIn(sc *scope[K, R], key K) *entry[R] {
	if t.single {
		if sc.only != nil && t.rows.key(&sc.only.row) == key {
			return sc.only
		}
		return nil
	}
	return sc.rows[key]
}

func (t *table[K, R]) insertIn(sc *scope[K, R], key K, e *entry[R]) {
	if t.single {
		sc.only = e
		return
	}
	if sc.rows == nil {
		sc.rows = map[K]*entry[R]{}
	}
	sc.rows[key] = e
	sc.added++
}

// stage makes room for a row that is to be added. Rows are checked there, not where the caller has them: what a key
// function gets a pointer to is on the heap.
func (t *table[K, R]) stage() *entry[R] { return t.slab.take() }

// create adds a staged row, or gives its room back.
func (t *table[K, R]) create(e *entry[R]) error {
	key := t.rows.key(&e.row)
	err := t.checkOwner(&e.row, key)
	if err == nil && t.find(key) != nil {
		err = t.rows.fail(key, ErrExists)
	}
	if err != nil {
		t.slab.giveBack()
		return err
	}
	t.plan.settle(unsafe.Pointer(&e.row))
	t.insertIn(t.current, key, e)
	t.created = append(t.created, e)
	for _, g := range t.current.groups {
		if g != nil {
			g.insert(e)
		}
	}
	return nil
}

func (t *table[K, R]) checkOwner(row *R, key K) error {
	if t.keys != nil || t.model.owned(t.run, unsafe.Add(unsafe.Pointer(row), t.model.aggregate.offset)) {
		return nil
	}
	return t.rows.fail(key, ErrForeign)
}

// replace gives e the row of the staged entry.
func (t *table[K, R]) replace(e, staged *entry[R]) error {
	err := t.checkOwner(&staged.row, t.rows.key(&staged.row))
	if err == nil {
		err = t.note(e)
	}
	if err == nil {
		e.row = staged.row
		t.noted(e)
	}
	t.slab.giveBack()
	return err
}

// change lets fn change the row, which must keep its key and its aggregate.
func (t *table[K, R]) change(e *entry[R], fn func(*R)) error {
	if err := t.note(e); err != nil {
		return err
	}
	key, before := t.rows.key(&e.row), e.row
	t.using(func() { fn(&e.row) })
	err := t.checkOwner(&e.row, key)
	if t.rows.key(&e.row) != key {
		err = t.rows.fail(key, ErrKey)
	}
	if err != nil {
		e.row = before
		return err
	}
	t.noted(e)
	return nil
}

// using keeps the table from being used meanwhile.
func (t *table[K, R]) using(fn func()) {
	t.ready, t.scoped, t.busy = false, false, true
	fn()
	t.ready, t.scoped, t.busy = true, true, false
}

// note is called before a row changes, noted after it did.
func (t *table[K, R]) note(e *entry[R]) error {
	for _, g := range t.current.groups {
		if g != nil {
			g.note(e)
		}
	}
	return t.remember(e)
}

func (t *table[K, R]) noted(e *entry[R]) {
	t.plan.settle(unsafe.Pointer(&e.row))
	for _, g := range t.current.groups {
		if g != nil {
			g.noted(e)
		}
	}
}

func (t *table[K, R]) changeAll(es []*entry[R], fn func(*R)) (int, error) {
	for i, e := range es {
		if err := t.change(e, fn); err != nil {
			return i, err
		}
	}
	return len(es), nil
}

// remove takes the row out; create may then use its key again.
func (t *table[K, R]) remove(e *entry[R]) error {
	if err := t.remember(e); err != nil {
		return err
	}
	for _, g := range t.current.groups {
		if g != nil {
			g.remove(e)
		}
	}
	if t.single {
		t.current.only = nil
	} else {
		delete(t.current.rows, t.rows.key(&e.row))
	}
	e.gone = true
	return nil
}

func (t *table[K, R]) removeAll(es []*entry[R]) (int, error) {
	for i, e := range es {
		if err := t.remove(e); err != nil {
			return i, err
		}
	}
	return len(es), nil
}

// remember notes what a loaded row is in the table before it is changed for the first time.
func (t *table[K, R]) remember(e *entry[R]) (err error) {
	if e.old == nil || e.old.was != nil {
		return nil
	}
	if e.old.was, err = t.encoded.keep(t.plan, unsafe.Pointer(&e.row)); err != nil {
		return t.run.fail(t.rows.fail(t.rows.key(&e.row), err))
	}
	t.changed = append(t.changed, e)
	return nil
}

// sorted returns the current aggregate's rows in the order of their keys.
func (t *table[K, R]) sorted() []*entry[R] {
	if t.single {
		if t.current.only == nil {
			return nil
		}
		return []*entry[R]{t.current.only}
	}
	es := make([]*entry[R], 0, len(t.current.rows))
	for _, e := range t.current.rows {
		es = append(es, e)
	}
	slices.SortFunc(es, t.compare)
	return es
}

func (t *table[K, R]) compare(a, b *entry[R]) int {
	return t.rows.compare(t.rows.key(&a.row), t.rows.key(&b.row))
}
