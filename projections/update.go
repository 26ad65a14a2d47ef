package projections

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// update is a stored row that has changed, encoded.
type update struct {
	values  []byte // of plan.columns
	numbers []byte // of model.numbered
}

// update changes all rows with one statement, whose parameter is an array of the table's rows: a third of the time that a
// statement for each takes. Columns that are not ours, and those that change nowhere, are NULL in it. A domain may refuse that even if
// nothing is set: a table with such a column that is not ours is updated row by row.
func (t *target) update(ctx context.Context, conn *pgx.Conn) (int64, error) {
	if len(t.updates) == 0 {
		return 0, nil
	}
	if slices.ContainsFunc(t.plan.shape, func(c sqlColumn) bool { return c.Declared != c.OID && t.model.column(c.Name) == nil }) {
		return t.updateEach(ctx, conn)
	}
	var sets, keys []string
	for i, c := range t.model.columns {
		if t.changes[i] {
			sets = append(sets, fmt.Sprintf("%[1]s = u.%[1]s", c.sql()))
		}
	}
	for _, k := range t.model.keys {
		keys = append(keys, fmt.Sprintf("t.%[1]s = u.%[1]s", k.sql()))
	}
	if t.uniqueKey() { // two rows with one key change one row, and are found out
		sql := fmt.Sprintf("update %s t set %s from unnest($1) u where %s", t.relation, strings.Join(sets, ", "), strings.Join(keys, " and "))
		update := statement{sql: sql, params: [][]byte{t.rowArray()}, oids: []uint32{t.plan.shape[0].Rows}, byKey: len(t.updates)}
		tag, err := update.run(ctx, conn, nil)
		if err != nil {
			return 0, tableError(t.name, err)
		}
		return tag.RowsAffected(), t.expect(tag.RowsAffected(), len(t.updates))
	}
	if t.sameKeys() {
		return 0, t.expect(0, len(t.updates))
	}
	// Each row of the array has to find one row of the table: one that finds two would make up for one that finds none.
	sql := fmt.Sprintf("with u as (select *, row_number() over () as projector_row from unnest($1)), "+
		"done as (update %s t set %s from u where %s returning u.projector_row) "+
		"select count(distinct projector_row), count(*) from done", t.relation, strings.Join(sets, ", "), strings.Join(keys, " and "))
	var found, updated int64
	done := statement{sql: sql, params: [][]byte{t.rowArray()}, oids: []uint32{t.plan.shape[0].Rows}, formats: binaryFormat}
	_, err := done.run(ctx, conn, func(values [][]byte) bool {
		found, updated = int64(binary.BigEndian.Uint64(values[0])), int64(binary.BigEndian.Uint64(values[1]))
		return true
	})
	if err != nil {
		return 0, tableError(t.name, err)
	}
	if found == int64(len(t.updates)) {
		found = updated
	}
	return updated, t.expect(found, len(t.updates))
}

// sameKeys says whether two rows to update have one primary key.
func (t *target) sameKeys() bool {
	seen := make(map[string]bool, len(t.updates))
	for _, u := range t.updates {
		values, numbers := cut(nil, u.values), cut(nil, u.numbers)
		var key []byte
		for _, k := range t.model.keys {
			if at, _ := t.place(k); k.numbered {
				key = appendValue(key, numbers[at])
			} else {
				key = appendValue(key, values[at])
			}
		}
		if seen[string(key)] {
			return true
		}
		seen[string(key)] = true
	}
	return false
}

func (t *target) updateEach(ctx context.Context, conn *pgx.Conn) (int64, error) {
	var sets, keys []string
	var oids []uint32
	for i, c := range t.plan.columns {
		sets, oids = append(sets, fmt.Sprintf("%s = $%d", c.sql(), i+1)), append(oids, c.oid)
	}
	params := make([][][]byte, len(t.updates))
	for i, u := range t.updates {
		params[i] = cut(nil, u.values)
	}
	for _, k := range t.model.keys {
		at, oid := t.place(k)
		if k.numbered {
			oids = append(oids, oid)
			for i, u := range t.updates {
				params[i] = append(params[i], cut(nil, u.numbers)[at])
			}
			at = len(oids) - 1
		}
		keys = append(keys, fmt.Sprintf("%s = $%d", k.sql(), at+1))
	}
	return t.each(ctx, conn, "update "+t.relation+" set "+strings.Join(sets, ", ")+" where "+strings.Join(keys, " and "), oids, params)
}

// rowArray encodes the rows to update as array_recv and record_recv of PostgreSQL read them.
func (t *target) rowArray() []byte {
	shape := t.plan.shape
	var values, numbers [][]byte
	places := make([]func() []byte, len(shape))
	for i, c := range shape {
		at := slices.IndexFunc(t.model.columns, func(m *column) bool { return m.name == c.Name })
		number := slices.IndexFunc(t.model.numbered, func(m *column) bool { return m.name == c.Name })
		switch {
		case at >= 0 && (t.changes == nil || t.changes[at] || c.Declared != c.OID || slices.Contains(t.model.keys, t.model.columns[at])):
			places[i] = func() []byte { return values[at] }
		case number >= 0:
			places[i] = func() []byte { return numbers[number] }
		default:
			places[i] = func() []byte { return nil }
		}
	}
	row := 8 + 8*len(shape) + len(t.updates[0].values) + len(t.updates[0].numbers) // about
	b := slices.Grow(t.array[:0], 20+row*len(t.updates))
	add := func(n int) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	add(1) // dimension
	add(0) // no element is NULL
	add(int(shape[0].Row))
	add(len(t.updates))
	add(1) // the index of the first
	for _, u := range t.updates {
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
