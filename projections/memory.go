package projections

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Memory keeps the tables of a set in memory, for tests that need no database: handlers see and leave the same rows as in a
// Run that loads. It knows the tables by their models only, so what their SQL adds is not there: types that round,
// constraints, unique indexes other than the key. SQL tables are left out.
//
// The package projectiontest makes tests of it. It is for one goroutine at a time.
type Memory struct {
	set     *Set
	run     *Run
	history []applied // that the rows come from
	broken  error
}

// Row is a row of a Memory.
type Row struct {
	Key   string // as messages print it
	Value any    // a copy
}

var errLoaded = errors.New("projections: the Memory holds rows of a database: they are for reading")

// Memory returns empty tables.
func (s *Set) Memory() *Memory {
	m := &Memory{set: s, run: s.start(&Run{loads: true, keeps: true})}
	m.clear()
	return m
}

// clear forgets all rows.
func (m *Memory) clear() {
	m.run.end(nil)
	m.run.places = map[ID]int{}
	for t := range targets(m.run.stores) {
		t.plan = guessedPlan(t.model)
	}
}

// Apply applies stored events, in the order given, as a catch-up does: payloads are decoded, and events that nobody handles
// are skipped. After an error the rows are what they were before.
func (m *Memory) Apply(ctx context.Context, events ...*Raw) error {
	var batch []applied
	for _, e := range events {
		if a := m.run.appliers[string(e.Type)]; a != nil {
			own := *e
			own.Type, own.Data, own.Metadata = bytes.Clone(e.Type), bytes.Clone(e.Data), bytes.Clone(e.Metadata)
			batch = append(batch, applied{applier: a, raw: &own})
		}
	}
	return m.apply(ctx, batch)
}

// Project applies events as Set.Project does. After an error the rows are what they were before.
func (m *Memory) Project(ctx context.Context, events ...New) error {
	handled, _, _, err := m.set.prepare(events)
	if err != nil {
		return err
	}
	batch := make([]applied, len(handled))
	for i, e := range handled {
		batch[i] = applied{applier: m.run.appliers[e.Type], meta: e.Meta, data: e.Data}
	}
	return m.apply(ctx, batch)
}

func (m *Memory) apply(ctx context.Context, batch []applied) error {
	if m.broken != nil {
		return m.broken
	}
	if err := m.batch(ctx, batch); err != nil {
		m.clear() // an undo of its own would be a second truth about what handlers do to rows
		if again := m.batch(ctx, m.history); again != nil {
			m.broken = fmt.Errorf("projections: events that went well fail when they are applied again: %w", again)
		}
		return errors.Join(err, m.broken)
	}
	m.history = append(m.history, batch...)
	return nil
}

func (m *Memory) batch(ctx context.Context, batch []applied) error {
	m.run.ctx = ctx
	for _, a := range batch {
		if err := m.run.apply(a); err != nil {
			return err
		}
	}
	for _, s := range m.run.stores {
		for _, t := range s.states {
			if err := t.keep(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Load reads all rows of the set's tables in the database, in place of those in memory. They can be listed then, and no
// more.
func (m *Memory) Load(ctx context.Context, tx DB) error {
	m.broken = errLoaded
	return tx.use(ctx, func(conn *pgx.Conn) error {
		if err := m.run.begin(ctx, conn, nil, m.run.stores); err != nil {
			return err
		}
		for _, s := range m.run.stores {
			for _, t := range s.states {
				if err := t.keepStored(); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Rows returns the name of the table whose rows are of a type, and copies of its rows in the order of their keys.
func (m *Memory) Rows(model reflect.Type) (table string, rows []Row, err error) {
	t, err := m.table(model)
	if err != nil {
		return "", nil, err
	}
	return t.base().model.table, t.list(), nil
}

// Row returns a row of a table as it would be if it were stored and loaded. value is one of the table's model.
func (m *Memory) Row(value any) (Row, error) {
	t, err := m.table(reflect.TypeOf(value))
	if err != nil {
		return Row{}, err
	}
	return t.settled(value), nil
}

func (m *Memory) table(model reflect.Type) (state, error) {
	var known []string
	for _, s := range m.run.stores {
		for _, t := range s.states {
			if t.base().model.goType == model {
				return t, nil
			}
			known = append(known, fmt.Sprintf("%v of table %s", t.base().model.goType, t.base().model.table))
		}
	}
	return nil, fmt.Errorf("no table has rows of %v; there are %s", model, strings.Join(known, ", "))
}

// TypeName returns the name that events of the payload's type are stored by: the event's own, or the only one there is.
func (s *Set) TypeName(e New) (string, error) { return s.typeOf(e) }

// guessedPlan is a plan without a database: columns have the types that bun would create them with.
func guessedPlan(m *model) *plan {
	p := &plan{}
	for _, c := range m.columns {
		oid := uint32(pgtype.TimestamptzOID)
		switch name, _, _ := strings.Cut(c.sqlType, "("); {
		case name == "date":
			oid = pgtype.DateOID
		case strings.HasPrefix(name, "timestamp") && name != "timestamptz" && !strings.HasSuffix(c.sqlType, "with time zone"):
			oid = pgtype.TimestampOID
		}
		if settle := planSettle(c, oid); settle != nil {
			p.settles = append(p.settles, settle)
		}
	}
	for _, c := range m.numbered {
		p.settles = append(p.settles, func(row unsafe.Pointer) { c.value(row).SetZero() })
	}
	return p
}

// kept is the state of a table as a Memory needs it.
type kept interface {
	// keep ends a batch, whose rows stay.
	keep() error
	// keepStored loads all rows.
	keepStored() error
	// list returns the rows that keep and keepStored have kept.
	list() []Row
	// settled returns a row that somebody else has, as it would be here.
	settled(value any) Row
}

func (t *table[K, R]) keep() error {
	if t.all == nil {
		t.all = map[K]*entry[R]{}
	}
	for _, e := range t.created {
		if e.gone {
			continue
		}
		key := t.rows.key(&e.row)
		if other := t.all[key]; other != nil && !other.gone && other != e {
			return fmt.Errorf("%w: it is a row of aggregate %s, and aggregate %s creates it, too",
				t.rows.fail(key, ErrExists), t.aggregateOf(other), t.aggregateOf(e))
		}
		t.all[key] = e
	}
	t.created = shortened(t.created)
	return nil
}

func (t *table[K, R]) aggregateOf(e *entry[R]) string {
	return printKey(t.model.aggregate.value(unsafe.Pointer(&e.row)).Interface())
}

func (t *table[K, R]) keepStored() error {
	t.all = map[K]*entry[R]{}
	columns := columnList(slices.Concat(t.model.columns, t.model.numbered))
	return t.read("select "+columns+" from "+t.relation, nil, nil, func(_ []byte, scan func(row unsafe.Pointer) error) error {
		e := t.slab.take()
		if err := scan(unsafe.Pointer(&e.row)); err != nil {
			return err
		}
		t.plan.settle(unsafe.Pointer(&e.row))
		key := t.rows.key(&e.row)
		if t.all[key] != nil {
			return fmt.Errorf("%s: two rows have this key", printKey(key))
		}
		t.all[key] = e
		return nil
	})
}

func (t *table[K, R]) list() []Row {
	es := make([]*entry[R], 0, len(t.all))
	for _, e := range t.all {
		if !e.gone {
			es = append(es, e)
		}
	}
	slices.SortFunc(es, t.compare)
	rows := make([]Row, len(es))
	for i, e := range es {
		rows[i] = Row{Key: printKey(t.rows.key(&e.row)), Value: e.row}
	}
	return rows
}

func (t *table[K, R]) settled(value any) Row {
	row := new(R)
	*row = value.(R)
	t.plan.settle(unsafe.Pointer(row))
	return Row{Key: printKey(t.rows.key(row)), Value: *row}
}

// keep has nothing to end: rows of all batches are put together.
func (t *totals[R]) keep() error { return nil }

func (t *totals[R]) keepStored() error {
	return t.read("select "+columnList(t.model.columns)+" from "+t.relation, nil, nil, func(_ []byte, scan func(row unsafe.Pointer) error) error {
		row := t.slab.take()
		if err := scan(unsafe.Pointer(row)); err != nil {
			return err
		}
		t.plan.settle(unsafe.Pointer(row))
		t.rows[string(t.model.encodeKey(nil, unsafe.Pointer(row)))] = row
		return nil
	})
}

func (t *totals[R]) list() (rows []Row) {
	for row := range t.sorted {
		rows = append(rows, Row{Key: t.by.printKey(unsafe.Pointer(row)), Value: *row})
	}
	return rows
}

func (t *totals[R]) settled(value any) Row {
	row := new(R)
	*row = value.(R)
	t.plan.settle(unsafe.Pointer(row))
	return Row{Key: t.by.printKey(unsafe.Pointer(row)), Value: *row}
}
