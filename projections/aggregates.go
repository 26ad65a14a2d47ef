package projections

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// The aggregates of a batch have places, in the order in which Begin got them: that of the parameter of queries.

func (r *Run) setAggregates(ids []ID) {
	if r.places == nil {
		r.places = map[ID]int{}
	}
	for _, id := range ids {
		if _, again := r.places[id]; !again {
			r.places[id] = len(r.aggregates)
			r.aggregates = append(r.aggregates, id)
		}
	}
}

func (r *Run) forgetAggregates() {
	if len(r.places) > keepPlaces {
		r.places = nil
	}
	clear(r.places)
	r.placesText, r.ids = nil, nil
	r.aggregates = shortened(r.aggregates)
}

// scopeOf finds the batch's aggregate whose id is at p.
func (r *Run) scopeOf(m *model, p unsafe.Pointer) (place int, ok bool) {
	if m.aggregate.typ.Kind() != reflect.String {
		place, ok = r.places[UUID(*(*[16]byte)(p))]
		return place, ok
	}
	if r.placesText == nil {
		r.placesText = map[string]int{}
		for id, i := range r.places {
			r.placesText[id.String()] = i
		}
	}
	place, ok = r.placesText[*(*string)(p)]
	return place, ok
}

// idArray encodes the batch's aggregates as a parameter of an array of a type, and returns it as it stands in SQL.
func (r *Run) idArray(sqlType string, number int) (param []byte, oid uint32, sql string, err error) {
	oid = pgtype.TextArrayOID
	if len(r.aggregates) > 0 && r.aggregates[0].IsUUID() {
		oid = pgtype.UUIDArrayOID
	}
	if r.ids == nil {
		r.ids, err = r.encodeIDs(oid)
	}
	return r.ids, oid, fmt.Sprintf("$%d::%s[]", number, sqlType), err
}

func (r *Run) encodeIDs(oid uint32) (param []byte, err error) {
	if oid == pgtype.UUIDArrayOID {
		param = make([]byte, 0, 20*(1+len(r.aggregates)))
		for _, n := range []int{1, 0, pgtype.UUIDOID, len(r.aggregates), 1} { // dimensions, no NULLs, the type, length, first index
			param = binary.BigEndian.AppendUint32(param, uint32(n))
		}
		for _, id := range r.aggregates {
			param = append(param, 0, 0, 0, 16)
			param = append(param, id.uuid[:]...)
		}
		return param, nil
	}
	ids := make([]string, len(r.aggregates))
	for i, id := range r.aggregates {
		ids[i] = id.String()
	}
	return r.conn.TypeMap().Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, ids, nil)
}
