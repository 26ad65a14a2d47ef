package projections

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// scanner reads a value that is not NULL into the zero value at p.
type scanner func(src []byte, p unsafe.Pointer) error

// planScan is planEncode's way back. Strings are read as text, which every type of PostgreSQL has.
func planScan(m *pgtype.Map, t reflect.Type, c *sqlColumn) (scanner, int16) {
	if t.Kind() == reflect.Pointer {
		elem, format := planScan(m, t.Elem(), c)
		if elem == nil {
			return nil, 0
		}
		return func(src []byte, p unsafe.Pointer) error {
			v := reflect.New(t.Elem())
			reflect.NewAt(t, p).Elem().Set(v.Convert(t))
			return elem(src, v.UnsafePointer())
		}, format
	}
	switch {
	case t.Kind() == reflect.Array && t.ConvertibleTo(uuidType) && c.OID == pgtype.UUIDOID:
		return scanUUID, pgtype.BinaryFormatCode
	case custom(t):
		return scanWithPgtype(m, t, c)
	case c.OID == pgtype.JSONOID || c.OID == pgtype.JSONBOID:
		return scanJSON(t), pgtype.TextFormatCode
	case t.Kind() == reflect.String:
		return scanString, pgtype.TextFormatCode
	case isInt(t.Kind()) && isIntColumn(c.OID):
		return scanInt(t), pgtype.BinaryFormatCode
	}
	return scanWithPgtype(m, t, c)
}

func scanUUID(src []byte, p unsafe.Pointer) error {
	copy((*[16]byte)(p)[:], src)
	return nil
}

func scanString(src []byte, p unsafe.Pointer) error {
	*(*string)(p) = string(src)
	return nil
}

func scanInt(t reflect.Type) scanner {
	return func(src []byte, p unsafe.Pointer) error {
		var n int64
		switch len(src) {
		case 2:
			n = int64(int16(binary.BigEndian.Uint16(src)))
		case 4:
			n = int64(int32(binary.BigEndian.Uint32(src)))
		default:
			n = int64(binary.BigEndian.Uint64(src))
		}
		v := reflect.NewAt(t, p).Elem()
		switch {
		case v.CanInt() && !v.OverflowInt(n):
			v.SetInt(n)
		case v.CanUint() && n >= 0 && !v.OverflowUint(uint64(n)):
			v.SetUint(uint64(n))
		default:
			return fmt.Errorf("%d does not fit into %v", n, t)
		}
		return nil
	}
}

func scanJSON(t reflect.Type) scanner {
	return func(src []byte, p unsafe.Pointer) error {
		switch {
		case t.Kind() == reflect.String && !implements[json.Marshaler](t):
			*(*string)(p) = string(src)
		case t == bytesType || t == rawMessageType:
			*(*[]byte)(p) = bytes.Clone(src)
		default:
			return json.Unmarshal(src, reflect.NewAt(t, p).Interface())
		}
		return nil
	}
}

func scanWithPgtype(m *pgtype.Map, t reflect.Type, c *sqlColumn) (scanner, int16) {
	format := m.FormatCodeForOID(c.OID)
	plan := m.PlanScan(c.OID, format, reflect.New(t).Interface())
	if plan == nil {
		return nil, 0
	}
	return func(src []byte, p unsafe.Pointer) error {
		return plan.Scan(src, reflect.NewAt(t, p).Interface())
	}, format
}

// planSettle returns what makes a field what it would be after a round trip; nil if it stays what it is.
func planSettle(c *column, oid uint32) func(row unsafe.Pointer) {
	if !isTime(oid) {
		return nil
	}
	switch c.typ {
	case timeType:
		return func(row unsafe.Pointer) {
			t := (*time.Time)(unsafe.Add(row, c.offset))
			*t = settleTime(*t, oid)
		}
	case reflect.PointerTo(timeType):
		return func(row unsafe.Pointer) {
			if t := (**time.Time)(unsafe.Add(row, c.offset)); *t != nil {
				settled := settleTime(**t, oid)
				*t = &settled // the old one may be the caller's
			}
		}
	}
	return nil
}

func settleTime(t time.Time, oid uint32) time.Time {
	switch oid {
	case pgtype.TimestampOID:
		return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond()/1000*1000, time.UTC)
	case pgtype.DateOID:
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	}
	if s := t.Unix(); s < firstTime || s > lastTime {
		return t
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}
