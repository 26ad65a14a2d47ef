package projections

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// plan says how the columns of a model travel to and from one table, as it is now.
type plan struct {
	conn    *pgx.Conn // whose type map the codecs use
	shape   []sqlColumn
	columns []plannedColumn // as model.columns
	numbers []uint32        // the types of model.numbered
	settles []func(row unsafe.Pointer)
}

type plannedColumn struct {
	*column
	oid     uint32
	sqlType string
	unique  bool // a unique index may care for it
	alone   bool // one has this column and no other
	notNull bool
	number  string // pg_attribute.attnum
	pairs   string // the numbers of columns with which it is unique
	encode  encoder
	scan    scanner
	format  int16 // that scan reads
}

// newPlan reports every column whose Go type does not fit the column's.
func newPlan(m *model, table string, conn *pgx.Conn, shape []sqlColumn) (*plan, error) {
	if err := m.checkShape(table, shape); err != nil {
		return nil, err
	}
	types := conn.TypeMap()
	registerEnums(types, shape)
	find := func(c *column) *sqlColumn {
		return &shape[slices.IndexFunc(shape, func(s sqlColumn) bool { return s.Name == c.name })]
	}
	p := &plan{conn: conn, shape: shape}
	var errs []error
	for _, c := range m.columns {
		sql := find(c)
		pc := plannedColumn{
			column: c, oid: sql.OID, sqlType: sql.Type, unique: sql.Unique, alone: sql.Alone, notNull: sql.NotNull,
			number: sql.Number, pairs: sql.Pairs,
		}
		if sql.OID == pgtype.BPCharOID {
			pc.sqlType = "bpchar" // "character" would be character(1)
		}
		pc.encode = planEncode(types, c.typ, sql)
		pc.scan, pc.format = planScan(types, c.typ, sql)
		if pc.encode == nil || pc.scan == nil {
			errs = append(errs, fmt.Errorf("table %s: column %s is %s, which field %s of %v, a %v, cannot be stored in: change the one or the other",
				table, c.name, sql.Type, c.goName, m.goType, c.typ))
			continue
		}
		if c.nullzero {
			pc.encode = nullZero(c, pc.encode)
		}
		p.columns = append(p.columns, pc)
		if settle := planSettle(c, sql.OID); settle != nil {
			p.settles = append(p.settles, settle)
		}
	}
	for _, c := range m.numbered {
		p.numbers = append(p.numbers, find(c).OID)
		p.settles = append(p.settles, func(row unsafe.Pointer) { c.value(row).SetZero() })
	}
	return p, errors.Join(errs...)
}

// settle makes the row what it would be if it were stored and loaded.
func (p *plan) settle(row unsafe.Pointer) {
	for _, settle := range p.settles {
		settle(row)
	}
}

// encode appends the row's values, each with its length before it: what COPY and, cut apart, parameters are made of.
func (p *plan) encode(buf []byte, row unsafe.Pointer) ([]byte, error) {
	for i := range p.columns {
		c := &p.columns[i]
		var err error
		if buf, err = c.encode(buf, unsafe.Add(row, c.offset)); err != nil {
			return buf, fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	return buf, nil
}

func appendNull(buf []byte) []byte { return append(buf, 0xff, 0xff, 0xff, 0xff) }

func appendValue(buf, value []byte) []byte {
	if value == nil {
		return appendNull(buf)
	}
	return append(binary.BigEndian.AppendUint32(buf, uint32(len(value))), value...)
}

// cut takes encoded values apart and appends them; NULL is nil.
func cut(values [][]byte, encoded []byte) [][]byte {
	for len(encoded) > 0 {
		var value []byte
		value, encoded = cutOne(encoded)
		values = append(values, value)
	}
	return values
}

func cutOne(encoded []byte) (value, rest []byte) {
	n := int32(binary.BigEndian.Uint32(encoded))
	if n < 0 {
		return nil, encoded[4:]
	}
	return encoded[4 : 4+n : 4+n], encoded[4+n:]
}

var binaryFormat = []int16{pgtype.BinaryFormatCode}
