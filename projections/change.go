package projections

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// image is a stored row, encoded.
type image struct {
	values  []byte // of plan.columns
	numbers []byte // of model.numbered
}

func (t *target) delete(ctx context.Context, conn *pgx.Conn) (int64, error) {
	if len(t.deletes) == 0 {
		return 0, nil
	}
	if slices.ContainsFunc(t.plan.shape, func(c sqlColumn) bool { return !c.Plain || c.Declared != c.OID || c.TextOnly }) {
		// Triggers, rules, cascades and policies may reach for the batch's other rows, and meet each of them as if nothing else went. A
		// foreign partition deletes what it is joined with by ctid, which is not unique if the remote table is partitioned as well. And an
		// array would have old values of the table's domains in it, which may refuse them by now.
		keyed, oids, params := t.keyed(t.deletes, nil, make([][][]byte, len(t.deletes)))
		return t.each(ctx, conn, "delete from "+t.relation+" where "+keyed, oids, params)
	}
	return t.change(ctx, conn, "delete from "+t.relation+" t using", t.deletes, make([]bool, len(t.plan.columns)))
}

func (t *target) update(ctx context.Context, conn *pgx.Conn) (int64, error) {
	if len(t.updates) == 0 {
		return 0, nil
	}
	if slices.ContainsFunc(t.plan.shape, func(c sqlColumn) bool {
		return (c.Declared != c.OID || c.TextOnly) && t.model.column(c.Name) == nil
	}) {
		return t.updateEach(ctx, conn) // see change
	}
	var sets []string
	for i, c := range t.model.columns {
		if t.changes[i] {
			sets = append(sets, fmt.Sprintf("%[1]s = u.%[1]s", c.sql()))
		}
	}
	return t.change(ctx, conn, "update "+t.relation+" t set "+strings.Join(sets, ", ")+" from", t.updates, t.changes)
}

// change deletes or updates all rows with one statement, whose parameter is an array of the table's rows: a third of the time that a
// statement for each takes. It begins with what is done, and goes on with what it is joined with. Of the rows, the keys are needed and
// these columns. The others are NULL in the array. That is refused for a column that is not ours if its domain refuses NULL, or if its type
// has no binary form, for which record_recv looks all the same.
func (t *target) change(ctx context.Context, conn *pgx.Conn, sql string, rows []image, columns []bool) (int64, error) {
	keys := make([]string, len(t.model.keys))
	for i, k := range t.model.keys {
		keys[i] = fmt.Sprintf("t.%[1]s = u.%[1]s", k.sql())
	}
	where := " u where " + strings.Join(keys, " and ")
	if t.uniqueKey() { // two rows with one key change one row, and are found out
		s := statement{sql: sql + " pg_catalog.unnest($1)" + where, params: [][]byte{t.rowArray(rows, columns)}, oids: []uint32{t.plan.shape[0].Rows}, byKey: len(rows)}
		tag, err := s.run(ctx, conn, nil)
		if err != nil {
			return 0, tableError(t.name, err)
		}
		return tag.RowsAffected(), t.expect(tag.RowsAffected(), len(rows))
	}
	if t.sameKeys(rows) {
		return 0, t.expect(0, len(rows))
	}
	// Each row of the array has to find one row of the table: one that finds two would make up for one that finds none.
	sql = "with u as (select *, pg_catalog.row_number() over () as projector_row from pg_catalog.unnest($1)), done as (" + sql + where +
		" returning u.projector_row) select pg_catalog.count(distinct projector_row), pg_catalog.count(*) from done"
	var found, changed int64
	s := statement{sql: sql, params: [][]byte{t.rowArray(rows, columns)}, oids: []uint32{t.plan.shape[0].Rows}, formats: binaryFormat}
	_, err := s.run(ctx, conn, func(values [][]byte) bool {
		found, changed = int64(binary.BigEndian.Uint64(values[0])), int64(binary.BigEndian.Uint64(values[1]))
		return true
	})
	if err != nil {
		return 0, tableError(t.name, err)
	}
	if found == int64(len(rows)) {
		found = changed
	}
	return changed, t.expect(found, len(rows))
}

// sameKeys says whether two rows have one primary key.
func (t *target) sameKeys(rows []image) bool {
	seen := make(map[string]bool, len(rows))
	for _, row := range rows {
		var key []byte
		for _, value := range t.key(row) {
			key = appendValue(key, value)
		}
		if seen[string(key)] {
			return true
		}
		seen[string(key)] = true
	}
	return false
}

// key returns the values of the row's primary key.
func (t *target) key(row image) [][]byte {
	values, numbers := cut(nil, row.values), cut(nil, row.numbers)
	key := make([][]byte, len(t.model.keys))
	for i, k := range t.model.keys {
		if at, _ := t.place(k); k.numbered {
			key[i] = numbers[at]
		} else {
			key[i] = values[at]
		}
	}
	return key
}

func (t *target) updateEach(ctx context.Context, conn *pgx.Conn) (int64, error) {
	var sets []string
	var oids []uint32
	for i, c := range t.plan.columns {
		sets, oids = append(sets, fmt.Sprintf("%s = $%d", c.sql(), i+1)), append(oids, c.oid)
	}
	params := make([][][]byte, len(t.updates))
	for i, row := range t.updates {
		params[i] = cut(nil, row.values)
	}
	keyed, oids, params := t.keyed(t.updates, oids, params)
	return t.each(ctx, conn, "update "+t.relation+" set "+strings.Join(sets, ", ")+" where "+keyed, oids, params)
}

// keyed is the condition that a row has the key which is in the last parameters. It adds these to those of the rows.
func (t *target) keyed(rows []image, oids []uint32, params [][][]byte) (string, []uint32, [][][]byte) {
	parts := make([]string, len(t.model.keys))
	for i, k := range t.model.keys {
		_, oid := t.place(k)
		oids = append(oids, oid)
		parts[i] = fmt.Sprintf("%s = $%d", k.sql(), len(oids))
	}
	for i, row := range rows {
		params[i] = append(params[i], t.key(row)...)
	}
	return strings.Join(parts, " and "), oids, params
}

// each runs the statement once per list of parameters, in one round trip, and expects each to hit one row.
func (t *target) each(ctx context.Context, conn *pgx.Conn, sql string, oids []uint32, params [][][]byte) (int64, error) {
	// The unnamed statement lasts until the next one is parsed, and leaves nothing behind.
	batch := &pgconn.Batch{}
	batch.ExecParams(sql, params[0], oids, binaryFormat, nil)
	for _, ps := range params[1:] {
		batch.ExecPrepared("", ps, binaryFormat, nil)
	}
	results := conn.PgConn().ExecBatch(ctx, batch)
	var rows int64
	for results.NextResult() {
		tag, err := results.ResultReader().Close()
		if err != nil {
			break // Close returns it
		}
		rows += tag.RowsAffected()
	}
	if err := results.Close(); err != nil {
		return 0, tableError(t.name, err)
	}
	return rows, t.expect(rows, len(params))
}

func (t *target) expect(rows int64, want int) error {
	if rows == int64(want) {
		return nil
	}
	return fmt.Errorf("%s: %d of %d rows are not as they were loaded: somebody else writes to the table, or the fields tagged pk are not its key",
		t.name, int64(want)-rows, want)
}

// rowArray encodes keys and these columns of rows, or all columns if they are nil, as array_recv and record_recv of PostgreSQL read them.
func (t *target) rowArray(rows []image, columns []bool) []byte {
	shape := t.plan.shape
	var values, numbers [][]byte
	places := make([]func() []byte, len(shape))
	for i, c := range shape {
		at := slices.IndexFunc(t.model.columns, func(m *column) bool { return m.name == c.Name })
		number := slices.IndexFunc(t.model.numbered, func(m *column) bool { return m.name == c.Name })
		switch {
		case at >= 0 && (columns == nil || columns[at] || c.Declared != c.OID || slices.Contains(t.model.keys, t.model.columns[at])):
			places[i] = func() []byte { return values[at] }
		case number >= 0:
			places[i] = func() []byte { return numbers[number] }
		default:
			places[i] = func() []byte { return nil }
		}
	}
	b := slices.Grow(t.array[:0], 20+(8+8*len(shape))*len(rows)) // and what the values take
	add := func(n int) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	add(1) // dimension
	add(0) // no element is NULL
	add(int(shape[0].Row))
	add(len(rows))
	add(1) // the index of the first
	for _, u := range rows {
		values, numbers = cut(values[:0], u.values), cut(numbers[:0], u.numbers)
		size := len(b)
		add(0)
		add(len(shape))
		for i, c := range shape {
			add(int(c.Declared))
			b = appendValue(b, places[i]())
		}
		binary.BigEndian.PutUint32(b[size:], uint32(len(b)-size-4))
	}
	t.array = b
	return b
}

// uniqueKey says whether a unique index has the key and nothing else.
func (t *target) uniqueKey() bool {
	if len(t.model.keys) != 1 {
		return false
	}
	key := t.model.keys[0]
	return slices.ContainsFunc(t.plan.shape, func(c sqlColumn) bool { return c.Name == key.name && c.Alone })
}
