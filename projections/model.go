package projections

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/schema"
)

// model is what bun knows of a view row, with the columns as offsets into the struct.
type model struct {
	table     string
	goType    reflect.Type
	columns   []*column // that we write, in the order of the struct
	numbered  []*column // that the database numbers
	keys      []*column // the primary key in SQL
	aggregate *column   // nil: there is none
	// encodeKey appends the primary key of a row; nil if the database numbers it, or if it has a type that is no key in Go.
	encodeKey func(buf []byte, row unsafe.Pointer) []byte
}

// column is a column of the view table and the field that holds it.
type column struct {
	name     string
	goName   string
	typ      reflect.Type
	offset   uintptr
	nullzero bool
	isZero   schema.IsZeroerFunc
	numbered bool
	tag      string // view:"…"
}

func (c *column) sql() string { return pgx.Identifier{c.name}.Sanitize() }

func (c *column) value(row unsafe.Pointer) reflect.Value {
	return reflect.NewAt(c.typ, unsafe.Add(row, c.offset)).Elem()
}

var (
	bunTables = pgdialect.New().Tables()
	uuidType  = reflect.TypeFor[[16]byte]()
)

// newModel panics if the model cannot be the row of a view table: that is a mistake in the program's text.
func newModel(typ reflect.Type) *model {
	m := readModel(typ)
	for _, c := range slices.Concat(m.columns, m.numbered) {
		m.noteAggregate(c)
	}
	if k := m.keys[0]; m.aggregate == nil && len(m.keys) == 1 && !k.numbered && holdsID(k.typ) {
		m.aggregate = k
	}
	if !slices.ContainsFunc(m.keys, func(c *column) bool { return c.numbered || newKeyEncoder(c.typ) == nil }) {
		m.encodeKey = keyEncoding(m.keys)
	}
	return m // without an aggregate, it is for a projector with the order ByPosition: see checkOrder
}

// readModel is newModel without the view tags, which say what kind of table it is.
func readModel(typ reflect.Type) *model {
	if typ.Kind() != reflect.Struct {
		panic(fmt.Sprintf("projections: the rows of a view table are structs, not %v", typ))
	}
	t := bunTables.Get(typ)
	m := &model{table: t.Name, goType: typ}
	switch {
	case strings.Contains(t.Name, "."):
		m.refuse("its table %s names a schema: that is said where the set is used", t.Name)
	case t.SoftDeleteField != nil:
		m.refuse("column %s: soft delete is not supported, delete the row", t.SoftDeleteField.Name)
	case len(t.Relations) > 0 || t.IsM2MTable:
		m.refuse("relations are not supported: each table is declared by itself")
	}
	for _, f := range t.Fields {
		c := m.newColumn(f)
		if c.numbered {
			m.numbered = append(m.numbered, c)
		} else {
			m.columns = append(m.columns, c)
		}
		if f.IsPK {
			m.keys = append(m.keys, c)
		}
	}
	if len(m.keys) == 0 {
		m.refuse("no primary key: tag a field bun:\",pk\"")
	}
	return m
}

func (m *model) refuse(format string, args ...any) {
	panic(fmt.Sprintf("projections: %v: ", m.goType) + fmt.Sprintf(format, args...))
}

func (m *model) newColumn(f *schema.Field) *column {
	c := &column{
		name: f.Name, goName: f.GoName, typ: f.StructField.Type, isZero: f.IsZero,
		nullzero: f.NullZero, numbered: f.AutoIncrement || f.Identity, tag: f.StructField.Tag.Get("view"),
	}
	at := m.goType
	for i, n := range f.Index {
		if at.Kind() == reflect.Pointer {
			m.refuse("column %s is in a struct embedded by pointer: embed it by value", f.Name)
		}
		sf := at.Field(n)
		if i > 0 && f.Index[i-1] >= 0 && sf.PkgPath != "" && !sf.Anonymous {
			m.refuse("column %s is in an unexported field", f.Name)
		}
		c.offset += sf.Offset
		at = sf.Type
	}
	if f.SQLDefault != "" && f.NullZero && !c.numbered {
		m.refuse("column %s has nullzero and default, which is DEFAULT in an INSERT and NULL in a COPY: set the value in the handler", f.Name)
	}
	if f.Tag.HasOption("msgpack") {
		m.refuse("column %s: msgpack is not supported", f.Name)
	}
	return c
}

func (m *model) noteAggregate(c *column) {
	switch {
	case c.tag == "":
	case c.tag != "aggregate":
		m.refuse("column %s: unknown tag view:%q: it is aggregate, and those of totals are for NewTotals", c.name, c.tag)
	case m.aggregate != nil:
		m.refuse("columns %s and %s are both tagged view:\"aggregate\"", m.aggregate.name, c.name)
	case !holdsID(c.typ) || c.numbered:
		m.refuse("column %s is %v: an aggregate's id is a [16]byte or a string", c.name, c.typ)
	default:
		m.aggregate = c
	}
}

func holdsID(t reflect.Type) bool {
	return t.Kind() == reflect.String || t.Kind() == reflect.Array && t.ConvertibleTo(uuidType)
}

// column finds a column by name, nil if there is none.
func (m *model) column(name string) *column {
	for _, cs := range [][]*column{m.columns, m.numbered} {
		for _, c := range cs {
			if c.name == name {
				return c
			}
		}
	}
	return nil
}

// probe fills a column of a zero row with something that is not zero.
func (m *model) probe(row unsafe.Pointer, c *column) {
	switch v := c.value(row); v.Kind() {
	case reflect.String:
		v.SetString("probe")
	case reflect.Array:
		v.Index(0).SetUint(1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	default:
		m.refuse("column %s is %v: the database numbers integers", c.name, c.typ)
	}
}

// isAggregate tells whether what of returns is the aggregate column, and refuses columns that the database numbers:
// they are not known before the row is stored.
func isAggregate[R any, V comparable](m *model, what string, of func(*R) V) bool {
	var zero V
	for _, c := range m.numbered {
		row := new(R)
		m.probe(unsafe.Pointer(row), c)
		if of(row) != zero {
			m.refuse("%s reads column %s, which the database numbers when the row is stored", what, c.name)
		}
	}
	if m.aggregate == nil {
		return false
	}
	row := new(R)
	m.probe(unsafe.Pointer(row), m.aggregate)
	t := reflect.TypeFor[V]()
	if !holdsID(t) || t.Kind() != m.aggregate.typ.Kind() {
		return false
	}
	v := of(row)
	return reflect.ValueOf(v).Convert(idType(t)).Interface() == m.aggregate.value(unsafe.Pointer(row)).Convert(idType(t)).Interface()
}

func idType(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.String {
		return reflect.TypeFor[string]()
	}
	return uuidType
}

// owned tells whether the id at p, in the Go type of the aggregate column, is the id of the run's current aggregate.
func (m *model) owned(r *Run, p unsafe.Pointer) bool {
	if m.aggregate.typ.Kind() == reflect.String {
		return *(*string)(p) == r.aggregateText()
	}
	return r.current.kind == uuidID && *(*[16]byte)(p) == r.current.uuid
}
