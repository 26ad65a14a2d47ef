package projections

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// places are the aggregates of a batch, in the order in which Begin got them: that of the parameter of queries. Events and rows come
// in this order, too, as a rule. So they are looked for where the last one was, and all are put into a map only when that has failed.
type places struct {
	ids  []ID
	of   map[ID]int     // has all of them, or none yet
	text map[string]int // by the ids' text; nil: not made yet
}

// set takes the ids, each once.
func (p *places) set(ids []ID) {
	if ascending(ids) {
		p.ids = append(p.ids, ids...)
		return
	}
	for _, id := range ids {
		if _, again := p.byID()[id]; !again {
			p.add(id)
		}
	}
}

func ascending(ids []ID) bool {
	for i := 1; i < len(ids); i++ {
		a, b := &ids[i-1], &ids[i]
		if cmp.Or(cmp.Compare(a.kind, b.kind), bytes.Compare(a.uuid[:], b.uuid[:]), strings.Compare(a.text, b.text)) >= 0 {
			return false
		}
	}
	return true
}

// add takes one more.
func (p *places) add(id ID) (place int) {
	place = len(p.ids)
	p.byID()[id] = place
	p.ids = append(p.ids, id)
	return place
}

func (p *places) byID() map[ID]int {
	if p.of == nil {
		p.of = map[ID]int{}
	}
	if len(p.of) < len(p.ids) {
		for i, id := range p.ids {
			p.of[id] = i
		}
	}
	return p.of
}

// near is how far an aggregate is looked for behind the last one: some have no row.
const near = 4

// find looks from a place on, and goes on with the first after the last.
func (p *places) find(id ID, from int) (place int, ok bool) {
	for i := range min(near, len(p.ids)) {
		if place = (from + i) % len(p.ids); p.ids[place] == id {
			return place, true
		}
	}
	place, ok = p.byID()[id]
	return place, ok
}

func (p *places) findText(id string) (place int, ok bool) {
	if p.text == nil {
		p.text = map[string]int{}
		for i, id := range p.ids {
			p.text[id.String()] = i
		}
	}
	place, ok = p.text[id]
	return place, ok
}

// forget forgets all, and keeps memory.
func (p *places) forget() {
	if len(p.of) > keepPlaces {
		p.of = nil
	}
	clear(p.of)
	*p = places{ids: shortened(p.ids), of: p.of}
}

// scopeOf finds the batch's aggregate whose id is at ptr; from is the place of the row before.
func (r *Run) scopeOf(m *model, ptr unsafe.Pointer, from int) (place int, ok bool) {
	if m.aggregate.typ.Kind() == reflect.String {
		return r.aggregates.findText(*(*string)(ptr))
	}
	return r.aggregates.find(UUID(*(*[16]byte)(ptr)), from)
}

// idArray encodes the batch's aggregates as a parameter of an array of a type, and returns it as it stands in SQL.
func (r *Run) idArray(sqlType string, number int) (param []byte, oid uint32, sql string, err error) {
	oid = pgtype.TextArrayOID
	if len(r.aggregates.ids) > 0 && r.aggregates.ids[0].IsUUID() {
		oid = pgtype.UUIDArrayOID
	}
	if r.ids == nil {
		r.ids, err = r.encodeIDs(oid)
	}
	return r.ids, oid, fmt.Sprintf("$%d::%s[]", number, sqlType), err
}

func (r *Run) encodeIDs(oid uint32) (param []byte, err error) {
	if oid == pgtype.UUIDArrayOID {
		param = make([]byte, 0, 20*(1+len(r.aggregates.ids)))
		for _, n := range []int{1, 0, pgtype.UUIDOID, len(r.aggregates.ids), 1} { // dimensions, no NULLs, the type, length, first index
			param = binary.BigEndian.AppendUint32(param, uint32(n))
		}
		for _, id := range r.aggregates.ids {
			param = append(param, 0, 0, 0, 16)
			param = append(param, id.uuid[:]...)
		}
		return param, nil
	}
	ids := make([]string, len(r.aggregates.ids))
	for i, id := range r.aggregates.ids {
		ids[i] = id.String()
	}
	return r.conn.TypeMap().Encode(pgtype.TextArrayOID, pgtype.BinaryFormatCode, ids, nil)
}
