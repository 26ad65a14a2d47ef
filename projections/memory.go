package projections

import (
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
	runs    []*Run
	history [][]applied // that the rows come from, by run
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
	m := &Memory{}
	for _, part := range s.parts() {
		m.runs = append(m.runs, part.start(&Run{loads: true, keeps: true}))
	}
	m.history = make([][]applied, len(m.runs))
	m.clear()
	return m
}

// clear forgets all rows.
func (m *Memory) clear() {
	for _, r := range m.runs {
		r.end(nil)
		for t := range targets(r.stores) {
			t.plan = guessedPlan(t.model)
		}
	}
}

// Apply applies stored events, in the order given, as a catch-up does: payloads are decoded, and events that nobody handles
// are skipped. After an error the rows are what they were before.
func (m *Memory) Apply(ctx context.Context, events ...*Raw) error {
	owned := make([]Raw, len(events))
	for i, e := range events {
		owned[i] = e.Clone()
	}
	return m.apply(ctx, func(r *Run) (batch []applied, err error) {
		for i := range owned {
			if a := r.appliers[string(owned[i].Type)]; a != nil {
				batch = append(batch, applied{applier: a, raw: &owned[i]})
			}
		}
		return batch, nil
	})
}

// Project applies events as Set.Project does. After an error the rows are what they were before.
func (m *Memory) Project(ctx context.Context, events ...New) error {
	return m.apply(ctx, func(r *Run) (batch []applied, err error) {
		handled, _, _, err := r.set.prepare(events)
		for _, e := range handled {
			batch = append(batch, applied{applier: r.appliers[e.Type], meta: &e.Meta, data: e.Data})
		}
		return batch, err
	})
}

func (m *Memory) apply(ctx context.Context, batchOf func(r *Run) ([]applied, error)) error {
	if m.broken != nil {
		return m.broken
	}
	batches := make([][]applied, len(m.runs))
	for i, r := range m.runs {
		var err error
		if batches[i], err = batchOf(r); err != nil {
			return err
		}
	}
	if err := m.batch(ctx, batches); err != nil {
		m.clear() // an undo of its own would be a second truth about what handlers do to rows
		if again := m.batch(ctx, m.history); again != nil {
			m.broken = fmt.Errorf("projections: events that went well fail when they are applied again: %w", again)
		}
		return errors.Join(err, m.broken)
	}
	for i := range batches {
		m.history[i] = append(m.history[i], batches[i]...)
	}
	return nil
}

func (m *Memory) batch(ctx context.Context, batches [][]applied) error {
	for i, r := range m.runs {
		r.ctx = ctx
		for _, a := range batches[i] {
			if err := r.apply(a); err != nil {
				return err
			}
		}
	}
	for t := range m.tables {
		if err := t.keep(); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) tables(yield func(state) bool) {
	for _, r := range m.runs {
		for _, s := range r.stores {
			for _, t := range s.states {
				if !yield(t) {
					return
				}
			}
		}
	}
}

// Load reads all rows of the set's tables in the database, in place of those in memory. They can be listed then, and no
// more.
func (m *Memory) Load(ctx context.Context, tx DB) error {
	m.broken = errLoaded
	return tx.use(ctx, func(conn *pgx.Conn) error {
		for _, r := range m.runs {
			if err := r.begin(ctx, conn, nil, r.stores, false); err != nil {
				return err
			}
		}
		for t := range m.tables {
			if err := t.keepStored(); err != nil {
				return err
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
	for t := range m.tables {
		if t.base().model.goType == model {
			return t, nil
		}
		known = append(known, fmt.Sprintf("%v of table %s", t.base().model.goType, t.base().model.table))
	}
	return nil, fmt.Errorf("no table has rows of %v; there are %s", model, strings.Join(known, ", "))
}

// Stored returns the event with what its payload says of how it is stored, unless it says so itself: the name of its type, and
// the schema version, if events of the type have one.
func (s *Set) Stored(e New) (_ New, err error) {
	if e.Type, err = s.typeOf(e); err != nil || e.SchemaVersion != "" {
		return e, err
	}
	for _, t := range s.events {
		if v := t.versions(); v != nil && t.names()[0] == e.Type && len(v.current) > 0 && !slices.Contains(v.current, "") {
			e.SchemaVersion = v.current[0]
		}
	}
	return e, nil
}

// guessedPlan is a plan without a database: columns have the types that bun would create them with.
func guessedPlan(m *model) *plan {
	p := &plan{}
	tags := bunTables.Get(m.goType).FieldMap
	for _, c := range m.columns {
		oid := uint32(pgtype.TimestamptzOID)
		switch name := strings.ToLower(tags[c.name].UserSQLType); {
		case name == "date":
			oid = pgtype.DateOID
		case strings.HasPrefix(name, "timestamp") && !strings.HasPrefix(name, "timestamptz") && !strings.HasSuffix(name, "with time zone"):
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
			return sharedError(t.name, printRowKey(t.model, unsafe.Pointer(&e.row)), []string{t.aggregateOf(other), t.aggregateOf(e)}, nil)
		}
		t.all[key] = e
	}
	t.created = shortened(t.created)
	return nil
}

func (t *table[K, R]) keepStored() error {
	t.all = map[K]*entry[R]{}
	columns := columnList(slices.Concat(t.model.columns, t.model.numbered))
	return t.read(statement{sql: "select " + columns + " from " + t.relation}, func(numbers []byte, scan func(row unsafe.Pointer) error) error {
		e, key, err := t.scanned(numbers, scan)
		if err != nil {
			return err
		}
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
