package projections

import (
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// encoder appends the value at p in PostgreSQL's binary format, with its length before it.
type encoder func(buf []byte, p unsafe.Pointer) ([]byte, error)

var (
	timeType       = reflect.TypeFor[time.Time]()
	bytesType      = reflect.TypeFor[[]byte]()
	rawMessageType = reflect.TypeFor[json.RawMessage]()
)

// planEncode chooses the encoder for a Go type in a column, nil if there is none. What is not common is left to pgtype.
func planEncode(m *pgtype.Map, t reflect.Type, c *sqlColumn) encoder {
	if t.Kind() == reflect.Pointer && !implements[driver.Valuer](t.Elem()) {
		if elem := planEncode(m, t.Elem(), c); elem != nil {
			return encodePointer(elem)
		}
		return nil
	}
	if t.Kind() == reflect.Array && t.ConvertibleTo(uuidType) && c.OID == pgtype.UUIDOID {
		return encodeUUID
	}
	if custom(t) {
		return encodeWithPgtype(m, t, c)
	}
	switch {
	case c.OID == pgtype.JSONOID || c.OID == pgtype.JSONBOID:
		return encodeJSON(t, c.OID == pgtype.JSONBOID)
	case t.Kind() == reflect.String && isText(c):
		return encodeString
	case isInt(t.Kind()) && isIntColumn(c.OID):
		return encodeInt(t, c)
	case t.Kind() == reflect.Bool && c.OID == pgtype.BoolOID:
		return encodeBool
	case t.Kind() == reflect.Float64 && c.OID == pgtype.Float8OID:
		return encodeFloat8
	case t.Kind() == reflect.Float32 && c.OID == pgtype.Float4OID:
		return encodeFloat4
	case t == bytesType && c.OID == pgtype.ByteaOID:
		return encodeBytes
	case t == timeType && isTime(c.OID):
		return encodeTime(c.OID == pgtype.DateOID)
	}
	return encodeWithPgtype(m, t, c)
}

func implements[I any](t reflect.Type) bool { return t.Implements(reflect.TypeFor[I]()) }

// custom tells whether the type says itself how it is stored.
func custom(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return implements[driver.Valuer](p) || implements[sql.Scanner](p) || implements[pgtype.TextValuer](p) ||
		implements[pgtype.Int64Valuer](p) || implements[pgtype.Float64Valuer](p) || implements[pgtype.BytesValuer](p)
}

// isText tells whether the type's binary format is its text: the string types, citext among them, and enums.
func isText(c *sqlColumn) bool { return c.Category == "S" || c.Kind == "e" }

func isInt(k reflect.Kind) bool { return k >= reflect.Int && k <= reflect.Uint64 }

func isIntColumn(oid uint32) bool {
	return oid == pgtype.Int8OID || oid == pgtype.Int4OID || oid == pgtype.Int2OID
}

func isTime(oid uint32) bool {
	return oid == pgtype.TimestamptzOID || oid == pgtype.TimestampOID || oid == pgtype.DateOID
}

func nullZero(c *column, encode encoder) encoder {
	switch k := c.typ.Kind(); {
	case k == reflect.String && !implements[interface{ IsZero() bool }](reflect.PointerTo(c.typ)):
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			if *(*string)(p) == "" {
				return appendNull(buf), nil
			}
			return encode(buf, p)
		}
	default:
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			if c.isZero(reflect.NewAt(c.typ, p).Elem()) {
				return appendNull(buf), nil
			}
			return encode(buf, p)
		}
	}
}

func encodePointer(elem encoder) encoder {
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		if to := *(*unsafe.Pointer)(p); to != nil {
			return elem(buf, to)
		}
		return appendNull(buf), nil
	}
}

func encodeUUID(buf []byte, p unsafe.Pointer) ([]byte, error) {
	return append(append(buf, 0, 0, 0, 16), (*[16]byte)(p)[:]...), nil
}

func encodeString(buf []byte, p unsafe.Pointer) ([]byte, error) {
	s := *(*string)(p)
	return append(binary.BigEndian.AppendUint32(buf, uint32(len(s))), s...), nil
}

func encodeBytes(buf []byte, p unsafe.Pointer) ([]byte, error) {
	return appendValue(buf, *(*[]byte)(p)), nil
}

func encodeBool(buf []byte, p unsafe.Pointer) ([]byte, error) {
	return append(buf, 0, 0, 0, 1, *(*byte)(p)), nil
}

func encodeFloat8(buf []byte, p unsafe.Pointer) ([]byte, error) {
	return binary.BigEndian.AppendUint64(append(buf, 0, 0, 0, 8), math.Float64bits(*(*float64)(p))), nil
}

func encodeFloat4(buf []byte, p unsafe.Pointer) ([]byte, error) {
	return binary.BigEndian.AppendUint32(append(buf, 0, 0, 0, 4), math.Float32bits(*(*float32)(p))), nil
}

func encodeInt(t reflect.Type, c *sqlColumn) encoder {
	read := readInt(t.Kind())
	if c.OID == pgtype.Int8OID {
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			n, ok := read(p)
			if !ok {
				return buf, fmt.Errorf("%d does not fit into %s", uint64(n), c.Type)
			}
			return binary.BigEndian.AppendUint64(append(buf, 0, 0, 0, 8), uint64(n)), nil
		}
	}
	size, least, most := byte(4), int64(math.MinInt32), int64(math.MaxInt32)
	if c.OID == pgtype.Int2OID {
		size, least, most = 2, math.MinInt16, math.MaxInt16
	}
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		n, ok := read(p)
		switch {
		case !ok:
			return buf, fmt.Errorf("%d does not fit into %s", uint64(n), c.Type)
		case n < least || n > most:
			return buf, fmt.Errorf("%d does not fit into %s", n, c.Type)
		case size == 2:
			return binary.BigEndian.AppendUint16(append(buf, 0, 0, 0, 2), uint16(n)), nil
		}
		return binary.BigEndian.AppendUint32(append(buf, 0, 0, 0, 4), uint32(n)), nil
	}
}

// readInt returns a reader of integers; what it reads is no int64 if it says so.
func readInt(k reflect.Kind) func(unsafe.Pointer) (int64, bool) {
	switch k {
	case reflect.Int:
		return func(p unsafe.Pointer) (int64, bool) { return int64(*(*int)(p)), true }
	case reflect.Int8:
		return func(p unsafe.Pointer) (int64, bool) { return int64(*(*int8)(p)), true }
	case reflect.Int16:
		return func(p unsafe.Pointer) (int64, bool) { return int64(*(*int16)(p)), true }
	case reflect.Int32:
		return func(p unsafe.Pointer) (int64, bool) { return int64(*(*int32)(p)), true }
	case reflect.Int64:
		return func(p unsafe.Pointer) (int64, bool) { return *(*int64)(p), true }
	case reflect.Uint8:
		return func(p unsafe.Pointer) (int64, bool) { return int64(*(*uint8)(p)), true }
	case reflect.Uint16:
		return func(p unsafe.Pointer) (int64, bool) { return int64(*(*uint16)(p)), true }
	case reflect.Uint32:
		return func(p unsafe.Pointer) (int64, bool) { return int64(*(*uint32)(p)), true }
	case reflect.Uint:
		return func(p unsafe.Pointer) (int64, bool) { n := int64(*(*uint)(p)); return n, n >= 0 }
	default:
		return func(p unsafe.Pointer) (int64, bool) { n := int64(*(*uint64)(p)); return n, n >= 0 }
	}
}

// PostgreSQL counts microseconds and days from 2000.
var (
	epoch     = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	firstTime = time.Date(-4712, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	lastTime  = time.Date(294276, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
)

// encodeTime relies on settleTime, which makes all times UTC: a wall clock or a day then is one as well.
func encodeTime(days bool) encoder {
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		t := *(*time.Time)(p)
		if s := t.Unix(); s < firstTime || s > lastTime {
			return buf, fmt.Errorf("%v is out of PostgreSQL's range of times", t)
		}
		if days {
			return binary.BigEndian.AppendUint32(append(buf, 0, 0, 0, 4), uint32((t.Unix()-epoch.Unix())/86400)), nil
		}
		return binary.BigEndian.AppendUint64(append(buf, 0, 0, 0, 8), uint64(t.UnixMicro()-epoch.UnixMicro())), nil
	}
}

func encodeJSON(t reflect.Type, versioned bool) encoder {
	isText := t.Kind() == reflect.String && !implements[json.Marshaler](t)
	isBytes := t == bytesType || t == rawMessageType
	nilable := t.Kind() == reflect.Map || t.Kind() == reflect.Slice || t.Kind() == reflect.Interface
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		v := reflect.NewAt(t, p).Elem()
		if nilable && v.IsNil() {
			return appendNull(buf), nil
		}
		var b []byte
		switch {
		case isText:
			b = []byte(v.String())
		case isBytes:
			b = v.Bytes()
		default:
			var err error
			if b, err = json.Marshal(v.Interface()); err != nil {
				return buf, err
			}
		}
		if versioned {
			buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(b)+1)), 1)
			return append(buf, b...), nil
		}
		return appendValue(buf, b), nil
	}
}

// encodeWithPgtype is for all other types. Strings that pgtype has no binary format for, as for numeric, go through the
// text format of the column's codec.
func encodeWithPgtype(m *pgtype.Map, t reflect.Type, c *sqlColumn) encoder {
	codec, known := m.TypeForOID(c.OID)
	if !known || !codec.Codec.FormatSupported(pgtype.BinaryFormatCode) {
		return nil
	}
	encode := func(v any, buf []byte) ([]byte, error) { return m.Encode(c.OID, pgtype.BinaryFormatCode, v, buf) }
	byAddress := !implements[driver.Valuer](t) && implements[driver.Valuer](reflect.PointerTo(t))
	sample := reflect.New(t).Elem()
	switch {
	case t.Kind() == reflect.Interface, byAddress:
	case m.PlanEncode(c.OID, pgtype.BinaryFormatCode, sample.Interface()) != nil:
	case t.Kind() == reflect.String:
		encode = func(v any, buf []byte) ([]byte, error) {
			s := reflect.ValueOf(v).String()
			var parsed any
			if err := m.Scan(c.OID, pgtype.TextFormatCode, []byte(s), &parsed); err != nil {
				return nil, fmt.Errorf("%q is no %s: %w", s, c.Type, err)
			}
			return m.Encode(c.OID, pgtype.BinaryFormatCode, parsed, buf)
		}
	default:
		return nil
	}
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		v := reflect.NewAt(t, p)
		if !byAddress {
			v = v.Elem()
		}
		at := len(buf)
		out, err := encode(v.Interface(), append(buf, 0, 0, 0, 0))
		if err != nil {
			return buf, err
		}
		if out == nil {
			return appendNull(buf), nil
		}
		binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at-4))
		return out, nil
	}
}
