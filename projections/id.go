package projections

import (
	"bytes"
	"encoding/hex"
	"strings"
)

// ID is an aggregate id, a UUID or text. IDs are comparable. The zero ID names no aggregate; the nil UUID does.
type ID struct {
	kind idKind
	uuid [16]byte
	text string
}

type idKind uint8

const (
	noID idKind = iota
	uuidID
	textID
	noPartition
)

// NoPartition is the Meta.Partition of a new event that is of no partition, of which the store's mapping makes NULL. The zero ID
// means that nobody has said which it is of.
var NoPartition = ID{kind: noPartition}

// UUID makes an ID from any 16-byte UUID type.
func UUID[U ~[16]byte](u U) ID { return ID{kind: uuidID, uuid: u} }

// Text makes an ID from text, which may be empty.
func Text(s string) ID { return ID{kind: textID, text: s} }

// UUID returns the 16 bytes, assignable to every UUID type that is a [16]byte; zero if the id is not a UUID.
func (id ID) UUID() [16]byte { return id.uuid }

// IsUUID tells whether the id was made by UUID.
func (id ID) IsUUID() bool { return id.kind == uuidID }

// IsZero tells whether the id names no aggregate.
func (id ID) IsZero() bool { return id.kind == noID }

// String returns the id as PostgreSQL prints it; the zero ID is empty.
func (id ID) String() string {
	if id.kind == uuidID {
		return formatUUID(id.uuid)
	}
	return id.text
}

// Compare orders ids by their bytes, as PostgreSQL does UUIDs, and text with the collation "C". It is for ids of one kind.
func (id ID) Compare(other ID) int {
	if id.kind == uuidID {
		return bytes.Compare(id.uuid[:], other.uuid[:])
	}
	return strings.Compare(id.text, other.text)
}

func formatUUID(u [16]byte) string {
	var b [36]byte
	at := 0
	for i, n := range []int{4, 2, 2, 2, 6} {
		if i > 0 {
			b[at] = '-'
			at++
		}
		hex.Encode(b[at:], u[:n])
		copy(u[:], u[n:])
		at += 2 * n
	}
	return string(b[:])
}
