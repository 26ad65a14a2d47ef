package projections

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// target is where a table's rows go in a run, and what is on its way there.
type target struct {
	model    *model
	run      *Run
	relation string // in SQL
	name     string // in messages
	plan     *plan
	check    func(ctx context.Context, conn *pgx.Conn) error // of a new plan; may be nil

	inserts  copyBuffer
	replaced copyBuffer // stored rows that are deleted and stored again, with what the database numbered
	updates  []image    // as they are to be
	changes  []bool     // of plan.columns: those that updates change; nil: that is not known
	deletes  []image    // as they were

	encoded   copyBuffer // stored rows as they were and as they are
	now, were [][]byte   // for collect
	array     []byte     // for rowArray
}

func (t *target) reset() {
	t.inserts.reset()
	t.replaced.reset()
	t.encoded.reset()
	clear(t.updates)
	t.updates = shortened(t.updates)
	clear(t.changes)
	if cap(t.array) > keepBytes {
		t.array = nil
	}
	clear(t.deletes)
	t.deletes = shortened(t.deletes)
}

func (t *target) insert(row unsafe.Pointer) error {
	buf := binary.BigEndian.AppendUint16(t.inserts.tail(), uint16(len(t.plan.columns)))
	buf, err := t.plan.encode(buf, row)
	if err == nil {
		t.inserts.set(buf)
	}
	return err
}

// collect takes down what has to be done to a stored row. If a column of a unique index changes, the row is deleted and
// stored again: an update could meet a value that another row, updated later, is about to give up.
func (t *target) collect(old *stored, gone bool, row unsafe.Pointer) error {
	if gone {
		t.deletes = append(t.deletes, image{old.was, old.numbers})
		return nil
	}
	encoded, err := t.encoded.keep(t.plan, row)
	if err != nil || bytes.Equal(encoded, old.was) {
		return err
	}
	t.now, t.were = cut(t.now[:0], encoded), cut(t.were[:0], old.was)
	for i, was := range t.were {
		if t.plan.columns[i].unique && !same(was, t.now[i]) {
			t.deletes = append(t.deletes, image{old.was, old.numbers})
			buf := binary.BigEndian.AppendUint16(t.replaced.tail(), uint16(len(t.now)+len(t.model.numbered)))
			t.replaced.set(append(append(buf, encoded...), old.numbers...))
			return nil
		}
	}
	if t.changes == nil {
		t.changes = make([]bool, len(t.now))
	}
	for i, was := range t.were {
		t.changes[i] = t.changes[i] || !same(was, t.now[i])
	}
	t.updates = append(t.updates, image{encoded, old.numbers})
	return nil
}

// same says whether two encoded values are. NULL is nil, and an empty text is not.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// place finds a column among the numbered or the others, and the OID of its type.
func (t *target) place(c *column) (int, uint32) {
	if c.numbered {
		for i, n := range t.model.numbered {
			if n == c {
				return i, t.plan.numbers[i]
			}
		}
	}
	for i := range t.plan.columns {
		if t.plan.columns[i].column == c {
			return i, t.plan.columns[i].oid
		}
	}
	panic("projections: a column that is not its model's")
}

// mayBeRefused says whether there are new rows, and a unique index that they may violate.
func (t *target) mayBeRefused() bool {
	return t.inserts.rows+t.replaced.rows > 0 && slices.ContainsFunc(t.plan.shape, func(c sqlColumn) bool { return c.Unique })
}

// write sends deletes, updates and inserts, in this order: a row may take a key or a unique value that another one frees.
func (t *target) write(ctx context.Context, conn *pgx.Conn) (rows int64, err error) {
	if t.inserts.rows == 0 && len(t.updates) == 0 && len(t.deletes) == 0 {
		return 0, nil
	}
	deleted, err := t.delete(ctx, conn)
	if err != nil {
		return 0, err
	}
	updated, err := t.update(ctx, conn)
	if err != nil {
		return 0, err
	}
	if _, err := t.copy(ctx, conn, &t.replaced, slices.Concat(t.model.columns, t.model.numbered)); err != nil {
		return 0, err
	}
	inserted, err := t.copy(ctx, conn, &t.inserts, t.model.columns)
	return deleted + updated + inserted, err // the replaced are among the deleted
}

func (t *target) copy(ctx context.Context, conn *pgx.Conn, rows *copyBuffer, columns []*column) (int64, error) {
	n, err := rows.copyTo(ctx, conn, "copy "+t.relation+" ("+columnList(columns)+") from stdin (format binary)")
	if err != nil {
		return 0, t.refused(rows, columns, err)
	}
	return n, nil
}

func columnList(cs []*column) string {
	names := make([]string, len(cs))
	for i, c := range cs {
		names[i] = c.sql()
	}
	return strings.Join(names, ", ")
}

// adder is called with each row that is loaded: with the columns that the database numbered, and a function that fills a zero row with
// the others.
type adder func(numbers []byte, scan func(row unsafe.Pointer) error) error

// load reads the rows of the batch's aggregates. If there is one of each, its id is the key.
func (t *target) load(single bool, add adder) error {
	byKey := 0
	if single {
		byKey = len(t.run.aggregates.ids)
	}
	return t.query(byKey, func(columns, relation, aggregate, ids string) string {
		return fmt.Sprintf("select %s from %s where %s = any(%s)", columns, relation, aggregate, ids)
	}, add)
}

// query is load with a statement of its own. It is given what goes into it, the array of the aggregates' ids at last.
func (t *target) query(byKey int, sql func(columns, relation, aggregate, ids string) string, add adder) error {
	fields := slices.Concat(t.model.columns, t.model.numbered)
	at, _ := t.place(t.model.aggregate)
	ids, oid, array, err := t.run.idArray(t.plan.columns[at].sqlType, 1)
	if err != nil {
		return err
	}
	return t.read(statement{
		sql: sql(columnList(fields), t.relation, t.model.aggregate.sql(), array), params: [][]byte{ids}, oids: []uint32{oid}, byKey: byKey,
	}, add)
}

// read adds the rows of a statement that selects the model's columns, and then the numbered ones.
func (t *target) read(s statement, add adder) error {
	s.formats = make([]int16, len(t.model.columns)+len(t.model.numbered))
	for i := range s.formats {
		s.formats[i] = pgtype.BinaryFormatCode
		if i < len(t.plan.columns) {
			s.formats[i] = t.plan.columns[i].format
		}
	}
	var now [][]byte
	scan := func(row unsafe.Pointer) error { return t.scan(now, row) }
	var failed error
	_, err := s.run(t.run.ctx, t.run.conn, func(values [][]byte) bool {
		now = values
		var numbers []byte
		for _, v := range values[len(t.plan.columns):] {
			numbers = appendValue(numbers, v)
		}
		failed = add(numbers, scan)
		return failed == nil
	})
	if err != nil {
		return tableError(t.name, err)
	}
	if failed != nil {
		return fmt.Errorf("%s: load: %w", t.name, failed)
	}
	return nil
}

func (t *target) scan(values [][]byte, row unsafe.Pointer) error {
	for i := range t.plan.columns {
		c := &t.plan.columns[i]
		if values[i] == nil {
			continue
		}
		if err := c.scan(values[i], unsafe.Add(row, c.offset)); err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	return nil
}

// forget deletes the rows of the batch's aggregates.
func (t *target) forget() (int64, error) {
	at, _ := t.place(t.model.aggregate)
	ids, oid, array, err := t.run.idArray(t.plan.columns[at].sqlType, 1)
	if err != nil {
		return 0, err
	}
	sql := fmt.Sprintf("delete from %s where %s = any(%s)", t.relation, t.model.aggregate.sql(), array)
	tag, err := statement{sql: sql, params: [][]byte{ids}, oids: []uint32{oid}}.run(t.run.ctx, t.run.conn, nil)
	if err != nil {
		return 0, tableError(t.name, err)
	}
	return tag.RowsAffected(), nil
}
