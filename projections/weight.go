package projections

import (
	"encoding/json"
	"reflect"
)

// Weight is how many rows a table has, and about how many bytes they take on disk, without indexes.
type Weight struct {
	Table       string
	Rows, Bytes int64
}

// rowOverhead is what PostgreSQL stores of a row besides its values: a header of 23 bytes, aligned, and a pointer of 4.
const rowOverhead = 28

// Weights tells how large the tables would be in a database: for a forecast, since values there are compressed and aligned.
func (m *Memory) Weights() []Weight {
	weights := []Weight{}
	for t := range m.tables {
		w := Weight{Table: t.base().model.table}
		for _, row := range t.list() {
			w.Rows++
			w.Bytes += rowOverhead
			value := reflect.New(t.base().model.goType)
			value.Elem().Set(reflect.ValueOf(row.Value))
			for _, c := range t.base().model.columns {
				w.Bytes += width(c.value(value.UnsafePointer()))
			}
		}
		weights = append(weights, w)
	}
	return weights
}

// width is about how many bytes a value takes in a column.
func width(v reflect.Value) int64 {
	const long = 8 // and whatever is aligned like it
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return 0
		}
		return width(v.Elem())
	case reflect.Bool:
		return 1
	case reflect.String:
		return 1 + int64(v.Len())
	case reflect.Array:
		return int64(v.Len()) * int64(v.Type().Elem().Size())
	case reflect.Slice:
		if v.Type() == bytesType || v.Type() == rawMessageType {
			return 4 + int64(v.Len())
		}
	case reflect.Struct:
		if v.Type() == timeType {
			return long
		}
	case reflect.Map:
	default:
		return long
	}
	text, err := json.Marshal(v.Interface())
	if err != nil { // a decimal, say
		return long
	}
	return 4 + int64(len(text))
}
