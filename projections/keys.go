package projections

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unsafe"
)

// keyOrder returns an order of keys of type K, so that rows that are alike to an index come in one order wherever they
// come from. It panics for types whose equality is not that of their text, such as time.Time.
func keyOrder[K comparable](m *model) func(a, b K) int {
	t := reflect.TypeFor[K]()
	checkKey(m, t, t)
	return func(a, b K) int { return compareValues(reflect.ValueOf(a), reflect.ValueOf(b)) }
}

func checkKey(m *model, key, t reflect.Type) {
	switch t.Kind() {
	case reflect.Array:
		checkKey(m, key, t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			checkKey(m, key, f.Type)
		}
	case reflect.String, reflect.Bool,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
	default:
		m.refuse("its key %v holds a %v: keys are made of integers, strings, booleans, and arrays and structs of these", key, t)
	}
}

func compareValues(a, b reflect.Value) int {
	switch a.Kind() {
	case reflect.Array:
		for i := range a.Len() {
			if c := compareValues(a.Index(i), b.Index(i)); c != 0 {
				return c
			}
		}
		return 0
	case reflect.Struct:
		for i := range a.NumField() {
			if c := compareValues(a.Field(i), b.Field(i)); c != 0 {
				return c
			}
		}
		return 0
	case reflect.String:
		return strings.Compare(a.String(), b.String())
	case reflect.Bool:
		return cmp.Compare(boolInt(a.Bool()), boolInt(b.Bool()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return cmp.Compare(a.Uint(), b.Uint())
	default:
		return cmp.Compare(a.Int(), b.Int())
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// printKey prints UUIDs as such, whatever their Go type.
func printKey(k any) string {
	if v := reflect.ValueOf(k); v.Kind() == reflect.Array && v.Type().ConvertibleTo(uuidType) {
		return formatUUID(v.Convert(uuidType).Interface().([16]byte))
	}
	return fmt.Sprint(k)
}

// keyEncoder appends a value of a key so that bytes are in the order of values and no value is the beginning of another one.
type keyEncoder func(buf []byte, p unsafe.Pointer) []byte

func newKeyEncoder(t reflect.Type) keyEncoder {
	switch {
	case t == timeType:
		return func(buf []byte, p unsafe.Pointer) []byte {
			return appendSigned(buf, (*time.Time)(p).UnixMicro())
		}
	case t.Kind() == reflect.Array && t.ConvertibleTo(uuidType):
		return func(buf []byte, p unsafe.Pointer) []byte { return append(buf, (*[16]byte)(p)[:]...) }
	case custom(t):
		return nil
	case t.Kind() == reflect.String:
		return func(buf []byte, p unsafe.Pointer) []byte {
			for _, b := range []byte(*(*string)(p)) {
				if buf = append(buf, b); b == 0 {
					buf = append(buf, 1)
				}
			}
			return append(buf, 0, 0)
		}
	case t.Kind() == reflect.Bool:
		return func(buf []byte, p unsafe.Pointer) []byte { return append(buf, *(*byte)(p)) }
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64:
		read := readInt(t.Kind())
		return func(buf []byte, p unsafe.Pointer) []byte {
			n, _ := read(p)
			return binary.BigEndian.AppendUint64(buf, uint64(n))
		}
	case isInt(t.Kind()):
		read := readInt(t.Kind())
		return func(buf []byte, p unsafe.Pointer) []byte {
			n, _ := read(p)
			return appendSigned(buf, n)
		}
	}
	return nil
}

// keyEncoding encodes the key columns of a row.
func keyEncoding(keys []*column) func(buf []byte, row unsafe.Pointer) []byte {
	encoders := make([]keyEncoder, len(keys))
	for i, c := range keys {
		encoders[i] = newKeyEncoder(c.typ)
	}
	return func(buf []byte, row unsafe.Pointer) []byte {
		for i, encode := range encoders {
			buf = encode(buf, unsafe.Add(row, keys[i].offset))
		}
		return buf
	}
}

func appendSigned(buf []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(buf, uint64(n)^1<<63)
}
