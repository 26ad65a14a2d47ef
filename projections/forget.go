package projections

import "unsafe"

func (t *table[K, R]) spill() error {
	if len(t.created) == 0 {
		return nil
	}
	if err := t.insertCreated(); err != nil {
		return err
	}
	t.current.forget()
	t.forgetEntries()
	return nil
}

func (t *table[K, R]) collect() error {
	if err := t.checkShared(); err != nil {
		return err
	}
	for _, e := range t.changed {
		if err := t.target.collect(e.old, e.gone, unsafe.Pointer(&e.row)); err != nil {
			return t.rows.fail(t.rows.key(&e.row), err)
		}
	}
	return t.insertCreated()
}

func (t *table[K, R]) insertCreated() error {
	for _, e := range t.created {
		if e.gone {
			continue
		}
		if err := t.insert(unsafe.Pointer(&e.row)); err != nil {
			return t.rows.fail(t.rows.key(&e.row), err)
		}
	}
	return nil
}

func (t *table[K, R]) reset() {
	t.forgetRows()
	if t.keys != nil {
		t.keys.forget()
		for _, l := range t.byGroup {
			l.forget()
		}
	}
}

// forgetRows is reset without what was asked for.
func (t *table[K, R]) forgetRows() {
	for _, sc := range t.used {
		if sc.added > keepInSpare || len(t.spare) == keepSpares {
			continue
		}
		sc.forget()
		sc.rest() // the next rows may be loaded, which no index sees
		t.spare = append(t.spare, sc)
	}
	clear(t.scopes)
	t.scopes = shortened(t.scopes)
	clear(t.used)
	t.used = shortened(t.used)
	t.loaded, t.busy, t.ready, t.scoped, t.lastsOf, t.loadedTo = t.run.keeps, false, false, false, 0, 0
	t.all = nil
	if !t.run.loads {
		if t.current == nil {
			t.current = &scope[K, R]{}
		}
		t.current.forget()
	}
	t.forgetEntries()
	t.target.reset()
}

func (t *table[K, R]) forgetEntries() {
	t.created = shortened(t.created)
	t.changed = shortened(t.changed)
	t.slab.reset()
}

func (sc *scope[K, R]) forget() {
	sc.only = nil
	sc.rows = emptied(sc.rows, sc.added)
	sc.added = 0
	for i, g := range sc.groups {
		if g != nil && !g.clear() {
			sc.groups[i] = nil
		}
	}
}

// rest takes the indexes out of use.
func (sc *scope[K, R]) rest() {
	sc.idle = append(sc.idle, make([]grouping[R], len(sc.groups)-min(len(sc.groups), len(sc.idle)))...)
	for i, g := range sc.groups {
		if g != nil {
			sc.idle[i], sc.groups[i] = g, nil
		}
	}
}

// emptied clears a map. Clearing costs what the map once held, so one that was large is dropped.
func emptied[M ~map[K]V, K comparable, V any](m M, held int) M {
	switch {
	case m == nil:
		return nil
	case held > keepInMap:
		return M{}
	case held > 0:
		clear(m)
	}
	return m
}

func shortened[T any](s []T) []T {
	if cap(s) > 8*keepInMap {
		return nil
	}
	return s[:0]
}
