package projections

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// accumulation is how the rows of an accumulating table are put together.
type accumulation struct {
	model    *model
	columns  []accumulated
	position *column // of the last row; nil: the table has none
}

// accumulated is a column that is not in the key.
type accumulated struct {
	*column
	rule rule
	ops  operations // on the field, or on what it points to
}

// rule says what becomes of the values of a column.
type rule string

const (
	ruleSum      rule = "sum"
	ruleCount    rule = "count"
	ruleMin      rule = "min"
	ruleMax      rule = "max"
	ruleLast     rule = "last"
	rulePosition rule = "position"
)

// newAccumulation panics if the model cannot be the row of an accumulating table.
func newAccumulation(typ reflect.Type) *accumulation {
	m := readModel(typ)
	a := &accumulation{model: m}
	if len(m.numbered) > 0 {
		m.refuse("the database numbers column %s: rows are added up by their keys, which have to be known", m.numbered[0].name)
	}
	for _, c := range m.columns {
		if slices.Contains(m.keys, c) {
			a.checkKey(c)
		} else {
			a.addColumn(c)
		}
	}
	m.encodeKey = keyEncoding(m.keys)
	for _, c := range a.columns {
		if c.rule == ruleLast && a.position == nil {
			m.refuse("column %s is tagged view:\"last\", and no column says of what position: add an int64 tagged view:\"position\"", c.name)
		}
	}
	return a
}

func (a *accumulation) checkKey(c *column) {
	m := a.model
	switch {
	case c.tag != "":
		m.refuse("column %s is in the primary key and tagged view:%q: take away the one or the other", c.name, c.tag)
	case c.nullzero:
		m.refuse("column %s is in the primary key, which cannot be null: take away nullzero", c.name)
	case newKeyEncoder(c.typ) == nil:
		m.refuse("column %s is %v: the keys of totals are made of integers, strings, booleans, UUIDs and time.Time", c.name, c.typ)
	}
}

func (a *accumulation) addColumn(c *column) {
	m := a.model
	of := accumulated{column: c, rule: rule(c.tag)}
	elem := c.typ
	if elem.Kind() == reflect.Pointer {
		elem = elem.Elem()
	}
	of.ops = operationsOn(elem)
	exact := c.typ.Kind() != reflect.Pointer && isInt(c.typ.Kind()) && !custom(c.typ)
	switch of.rule {
	case "":
		m.refuse("column %s says not how it adds up: tag it view:\"sum\", \"count\", \"min\", \"max\", \"last\" or \"position\"", c.name)
	case ruleSum, ruleCount:
		if !exact {
			m.refuse("column %s is %v, and a %s has to be exact: make it an integer, of the smallest unit", c.name, c.typ, of.rule)
		}
	case ruleMin, ruleMax:
		if of.ops.compare == nil {
			m.refuse("column %s is %v: a %s is an integer, a string, a time.Time, or a pointer to one of these", c.name, c.typ, of.rule)
		}
	case ruleLast:
	case rulePosition:
		switch {
		case a.position != nil:
			m.refuse("columns %s and %s are both tagged view:\"position\"", a.position.name, c.name)
		case c.typ != reflect.TypeFor[int64]():
			m.refuse("column %s is %v: a position is an int64", c.name, c.typ)
		}
		a.position = c
	default:
		m.refuse("column %s: unknown tag view:%q: it is sum, count, min, max, last or position", c.name, c.tag)
	}
	if c.nullzero && of.rule != ruleLast {
		m.refuse("column %s is tagged nullzero, and zero is a %s like others: take it away; for values that may be missing take a pointer", c.name, of.rule)
	}
	a.columns = append(a.columns, of)
}

// stamp fills in what Add knows, and makes the row's values its own.
func (a *accumulation) stamp(row unsafe.Pointer, position int64) error {
	for i := range a.columns {
		c := &a.columns[i]
		v := c.value(row)
		switch {
		case (c.rule == ruleCount || c.rule == rulePosition) && !v.IsZero():
			return fmt.Errorf("column %s is filled in by Add: leave field %s zero", c.name, c.goName)
		case c.rule == ruleCount && v.CanInt():
			v.SetInt(1)
		case c.rule == ruleCount:
			v.SetUint(1)
		case c.rule == rulePosition && position == 0:
			return fmt.Errorf("column %s needs the event's position, and it has none: set Meta.Position", c.name)
		case c.rule == rulePosition:
			v.SetInt(position)
		case c.rule != ruleLast && v.Kind() == reflect.Pointer && !v.IsNil():
			own := reflect.New(c.typ.Elem())
			own.Elem().Set(v.Elem())
			v.Set(own.Convert(c.typ))
		}
	}
	return nil
}

// merge puts one row into another with the same key. After an error, into is half of it.
func (a *accumulation) merge(into, from unsafe.Pointer) error {
	newer := a.position == nil || a.position.value(from).Int() >= a.position.value(into).Int()
	for i := range a.columns {
		c := &a.columns[i]
		old, new := unsafe.Add(into, c.offset), unsafe.Add(from, c.offset)
		take := newer
		switch c.rule {
		case ruleSum, ruleCount:
			if !c.ops.add(old, new) {
				return fmt.Errorf("column %s: the sum of %v and %v does not fit into field %s, a %v",
					c.name, c.value(into), c.value(from), c.goName, c.typ)
			}
			continue
		case ruleMin:
			take = c.compare(new, old) < 0
		case ruleMax:
			take = c.compare(new, old) > 0
		}
		if take {
			reflect.NewAt(c.typ, old).Elem().Set(reflect.NewAt(c.typ, new).Elem())
		}
	}
	return nil
}

// compare orders values of a minimum or a maximum; nil is neither.
func (c *accumulated) compare(a, b unsafe.Pointer) int {
	if c.typ.Kind() != reflect.Pointer {
		return c.ops.compare(a, b)
	}
	a, b = *(*unsafe.Pointer)(a), *(*unsafe.Pointer)(b)
	switch {
	case a == nil:
		return 0
	case b != nil:
		return c.ops.compare(a, b)
	case c.rule == ruleMin:
		return -1
	}
	return 1
}

func (a *accumulation) printKey(row unsafe.Pointer) string {
	var parts []string
	for _, k := range a.model.keys {
		parts = append(parts, printKey(k.value(row).Interface()))
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

// checkColumns finds columns whose SQL type does not add up like the field. The side table's sums are wider than the table's.
func (a *accumulation) checkColumns(table string, p *plan) error {
	var errs []error
	for _, sql := range p.shape {
		if sql.Declared != sql.OID && a.model.column(sql.Name) == nil {
			errs = append(errs, fmt.Errorf("table %s: column %s is of a domain, and %v has no field for it: add the field, or give the column the domain's base type",
				table, sql.Name, a.model.goType))
		}
	}
	for _, c := range a.columns {
		i := slices.IndexFunc(p.columns, func(pc plannedColumn) bool { return pc.column == c.column })
		numbers := []uint32{pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.NumericOID}
		var fits []uint32
		switch {
		case c.rule == ruleLast:
			continue
		case c.rule == rulePosition:
			fits = []uint32{pgtype.Int8OID}
		case c.ops.add != nil:
			fits = numbers
		case c.text():
			fits = []uint32{pgtype.TextOID, pgtype.VarcharOID}
		default:
			fits = []uint32{pgtype.TimestamptzOID, pgtype.TimestampOID, pgtype.DateOID}
		}
		if !slices.Contains(fits, p.columns[i].oid) {
			errs = append(errs, fmt.Errorf("table %s: column %s is %s, which has no %s of field %s of %v, a %v: change the one or the other",
				table, c.name, p.columns[i].sqlType, c.rule, c.goName, a.model.goType, c.typ))
		}
	}
	return errors.Join(errs...)
}

// text says whether the column's values are strings.
func (c *accumulated) text() bool {
	t := c.typ
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.String
}

// operations are what can be done with values of a type; those that cannot are nil.
type operations struct {
	compare func(a, b unsafe.Pointer) int
	add     func(into, from unsafe.Pointer) bool // false: the sum does not fit, and into is as it was
}

func operationsOn(t reflect.Type) operations {
	switch {
	case t == timeType:
		return operations{compare: func(a, b unsafe.Pointer) int { return (*time.Time)(a).Compare(*(*time.Time)(b)) }}
	case custom(t):
		return operations{}
	}
	switch t.Kind() {
	case reflect.String:
		return operations{compare: func(a, b unsafe.Pointer) int { return strings.Compare(*(*string)(a), *(*string)(b)) }}
	case reflect.Int:
		return integers[int]()
	case reflect.Int8:
		return integers[int8]()
	case reflect.Int16:
		return integers[int16]()
	case reflect.Int32:
		return integers[int32]()
	case reflect.Int64:
		return integers[int64]()
	case reflect.Uint:
		return integers[uint]()
	case reflect.Uint8:
		return integers[uint8]()
	case reflect.Uint16:
		return integers[uint16]()
	case reflect.Uint32:
		return integers[uint32]()
	case reflect.Uint64:
		return integers[uint64]()
	}
	return operations{}
}

func integers[T int | int8 | int16 | int32 | int64 | uint | uint8 | uint16 | uint32 | uint64]() operations {
	return operations{
		compare: func(a, b unsafe.Pointer) int { return cmp.Compare(*(*T)(a), *(*T)(b)) },
		add: func(into, from unsafe.Pointer) bool {
			a, b := *(*T)(into), *(*T)(from)
			sum := a + b
			if (sum < a) != (b < 0) { // it went round
				return false
			}
			*(*T)(into) = sum
			return true
		},
	}
}
