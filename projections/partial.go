package projections

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// A catch-up loads all rows of an aggregate when a handler touches them. For tables that grow with the history, like
// bookings of an account, that is much for little, since most handlers look at the last row and add one. So as long as a
// batch does no more than Create and Index.Last to a table, its rows are not loaded, or only the last of each aggregate.
//
// Create then cannot know that a key is taken. It goes on as if it were free. Its unique index says so when the batch is
// stored, in a savepoint; if anything fails before, or the row is gone by then, a query does. If a key was taken after all,
// the batch is applied again from its first event with all rows loaded, so handlers see what they would have seen.

// errTaken is the reason to apply the batch again. No handler's error hides it: the run notes it, too.
var errTaken = errors.New("a key that was taken to be free is not")

// applied is an event of the batch, to be applied again.
type applied struct {
	applier applier
	raw     *Raw // nil: meta and data
	meta    *Meta
	data    any
}

// scopeOfEvent returns the id of the event's scope; ok is false if it has none.
func (r *Run) scopeOfEvent(a applied) (id ID, ok bool) {
	if a.raw != nil {
		return r.scopeID(a.raw.AggregateID, a.raw.Partition)
	}
	return r.scopeID(a.meta.AggregateID, a.meta.Partition)
}

func (r *Run) apply(a applied) error {
	id, ok := r.scopeOfEvent(a)
	if !ok {
		return nil
	}
	if id != r.current || r.current.IsZero() {
		if err := r.enter(id); err != nil {
			return err
		}
	}
	var err error
	if a.raw == nil {
		r.position = a.meta.Position
		err = a.applier.applyValue(*a.meta, a.data)
	} else {
		r.applied++
		r.position = a.raw.Position
		err = a.applier.apply(a.raw, r.applied%sampled == 0)
	}
	if err == nil {
		err = r.broken
	}
	return err
}

// applyPartial applies an event of a batch whose tables may be partly loaded.
func (r *Run) applyPartial(a applied) error {
	r.history = append(r.history, a)
	err := r.apply(a)
	if err == nil && !r.taken {
		return nil
	}
	if r.taken {
		return r.again()
	}
	taken, checkErr := r.anyTaken()
	if checkErr == nil && taken {
		return r.again()
	}
	return err // also if it broke the transaction, and so the check
}

// again applies the batch again, with all rows.
func (r *Run) again() error {
	for _, t := range r.tables {
		t.reset()
	}
	r.partial, r.taken, r.broken = false, false, nil
	r.current, r.text = ID{}, ""
	for _, a := range r.history {
		if err := r.apply(a); err != nil {
			return err
		}
	}
	r.forgetHistory()
	return nil
}

func (r *Run) forgetHistory() {
	clear(r.history)
	r.history = shortened(r.history)
}

// anyTaken asks the database whether a key is taken that Create went on with.
func (r *Run) anyTaken() (bool, error) {
	for _, t := range r.tables {
		if taken, err := t.taken(); taken || err != nil {
			return taken, err
		}
	}
	return false, nil
}

// flushPartial stores the rows of a batch whose tables may be partly loaded. Whether the key of a row that stays was taken,
// its unique index says; for those that are gone again, as all rows of a Create are if it fails at the second, a query does.
func (r *Run) flushPartial() (int64, error) {
	stay, gone := false, false
	for _, t := range r.tables {
		some, others := t.guessed()
		stay, gone = stay || some, gone || others
	}
	if gone {
		taken, err := r.anyTaken()
		if err == nil && taken {
			err, stay = r.again(), false
		}
		if err != nil {
			return 0, r.fail(err)
		}
	}
	if !stay {
		return r.flush()
	}
	rows, err := r.flush()
	if violationOf(err) == nil {
		return rows, err
	}
	r.stored = 0
	if err := r.again(); err != nil {
		return 0, r.fail(err)
	}
	return r.flush()
}

func (r *Run) exec(sql string) error {
	_, err := r.conn.Exec(r.ctx, sql)
	return r.failing(err)
}

// some makes the current aggregate's scope current without loading rows, if the table can do without.
func (t *table[K, R]) some() error {
	if t.scoped {
		return nil
	}
	if t.busy || !t.run.partial || t.loaded || t.keyColumn() == nil {
		return t.prepare()
	}
	t.current = t.scope(t.run.scope)
	t.scoped = true
	return nil
}

// keyColumn is the column that is the key, if it has a unique index to itself.
func (t *table[K, R]) keyColumn() *plannedColumn {
	if t.rows.keyColumn == nil {
		return nil
	}
	for i := range t.plan.columns {
		if c := &t.plan.columns[i]; c.column == t.rows.keyColumn && c.alone {
			return c
		}
	}
	return nil
}

// lasts loads the rows that the index may return as last: of each aggregate of the batch those that are greatest in its
// order, which has to be that of a column of integers.
func (t *table[K, R]) lasts(index int, order *column) error {
	switch {
	case t.ready || t.lastsOf == index+1:
		return nil
	case t.lastsOf != 0 || !t.ordered(order):
		return t.prepare()
	}
	ties := "with ties"
	if t.paired(order) {
		ties = "only" // which does not look for another
	}
	err := t.query(0, func(columns, relation, aggregate, ids string) string {
		return fmt.Sprintf(`
			select r.* from unnest(%[4]s) a (id)
			cross join lateral (select %[1]s from %[2]s v where v.%[3]s = a.id order by v.%[5]s desc fetch first row %[6]s) r`,
			columns, relation, aggregate, ids, order.sql(), ties)
	}, t.add)
	if err != nil {
		return t.run.fail(err)
	}
	t.lastsOf = index + 1
	return nil
}

// paired says whether the rows of an aggregate differ in the column.
func (t *table[K, R]) paired(order *column) bool {
	at, _ := t.place(order)
	of, _ := t.place(t.model.aggregate)
	return slices.Contains(strings.Fields(t.plan.columns[at].pairs), t.plan.columns[of].number)
}

func (t *table[K, R]) ordered(order *column) bool {
	for i := range t.plan.columns {
		if c := &t.plan.columns[i]; c.column == order {
			return c.notNull && !order.nullzero && isInt(order.typ.Kind()) && isIntColumn(c.oid)
		}
	}
	return false
}

// guessed says whether rows were created whose keys were taken to be free: such that stay, and such that are gone again.
func (t *table[K, R]) guessed() (stay, gone bool) {
	if t.loaded {
		return false, false
	}
	for _, e := range t.created {
		stay, gone = stay || !e.gone, gone || e.gone
	}
	return stay, gone
}

// taken asks for the keys of rows that were created before the table's rows were loaded.
func (t *table[K, R]) taken() (bool, error) {
	if t.loaded || !t.run.loads || len(t.created) == 0 {
		return false, nil
	}
	keys := make([]string, 0, len(t.created))
	for _, e := range t.created { // also those that are gone again: what came of them depended on it
		keys = append(keys, keyText(reflect.ValueOf(t.rows.key(&e.row))))
	}
	array, err := t.run.conn.TypeMap().Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, keys, nil)
	if err != nil {
		return false, err
	}
	at, _ := t.place(t.model.aggregate)
	ids, oid, idArray, err := t.run.idArray(t.plan.columns[at].sqlType, 2)
	if err != nil {
		return false, err
	}
	key := t.keyColumn()
	sql := fmt.Sprintf("select exists (select from %s where %s = any($1::text[]::%s[]) and %s = any(%s))",
		t.relation, key.sql(), key.sqlType, t.model.aggregate.sql(), idArray)
	var taken bool
	exists := statement{sql: sql, params: [][]byte{array, ids}, oids: []uint32{pgtype.TextArrayOID, oid}, formats: binaryFormat}
	_, err = exists.run(t.run.ctx, t.run.conn, func(values [][]byte) bool {
		taken = values[0][0] != 0
		return true
	})
	if err != nil {
		return false, tableError(t.name, err)
	}
	return taken, nil
}

// keyText writes a key of a kind that returned allows as PostgreSQL reads it, whatever String method its type has.
func keyText(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.String:
		return v.String()
	case v.Kind() == reflect.Array:
		var id [16]byte
		for i := range id {
			id[i] = byte(v.Index(i).Uint()) // not Convert: the field may be unexported
		}
		return formatUUID(id)
	case v.CanInt():
		return strconv.FormatInt(v.Int(), 10)
	}
	return strconv.FormatUint(v.Uint(), 10)
}

// returned tells which of the model's columns of returns, nil if it is none, or not one of integers, text or UUIDs: two
// probes with other values everywhere else tell a column from what is made of several.
func returned[R any, V comparable](m *model, of func(*R) V) *column {
	return returnedPart(m, reflect.TypeFor[V](), of, func(v reflect.Value) reflect.Value { return v })
}

// partsOf tells of which columns what of returns is made: of one, or, if it is a struct, of one for each field; nil if it is not.
func partsOf[R any, V comparable](m *model, of func(*R) V) []*column {
	t := reflect.TypeFor[V]()
	if t.Kind() != reflect.Struct {
		if c := returned(m, of); c != nil {
			return []*column{c}
		}
		return nil
	}
	var columns []*column
	for i := range t.NumField() {
		c := returnedPart(m, t.Field(i).Type, of, func(v reflect.Value) reflect.Value { return v.Field(i) })
		if c == nil {
			return nil
		}
		columns = append(columns, c)
	}
	return columns
}

// returnedPart is returned for a part, of type t, of what of returns.
func returnedPart[R any, V comparable](m *model, t reflect.Type, of func(*R) V, part func(reflect.Value) reflect.Value) *column {
	if t.Kind() != reflect.String && !isInt(t.Kind()) && !holdsID(t) {
		return nil
	}
	for _, c := range m.columns {
		if c.typ != t || c.nullzero || custom(t) && t.Kind() != reflect.Array {
			continue
		}
		returns := func(own, others uint64) bool {
			row := new(R)
			for _, o := range m.columns {
				fill(o.value(unsafe.Pointer(row)), others)
			}
			v := c.value(unsafe.Pointer(row))
			fill(v, own)
			return compareValues(part(reflect.ValueOf(of(row))), v) == 0
		}
		if returns(1, 2) && returns(2, 1) {
			return c
		}
	}
	return nil
}

// fill makes the value one that stands for n, if it is of a kind that keys are made of.
func fill(v reflect.Value, n uint64) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Repeat("x", int(n)))
	case reflect.Array:
		if v.Type().ConvertibleTo(uuidType) {
			v.Index(0).SetUint(n)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(n)
	}
}
