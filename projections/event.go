package projections

import (
	"bytes"
	"fmt"
	"time"
)

// Meta is what every event has.
type Meta struct {
	Position    int64 // its place in the whole store; in some stores, the events of a transaction share one
	AggregateID ID
	Sequence    int64     // its place in its aggregate
	Type        string    // as stored
	Time        time.Time // zero if the store has none

	// Empty unless the store has them and its mapping names them.
	AggregateType string
	Metadata      []byte // as stored, JSON as a rule; shared with other handlers: read it only
	SchemaVersion string // of the payload, as stored: handlers get it upcast
	Tenant        string
	Partition     ID // what projectors with the order ByPartition group events by; zero: the event is of no partition
}

// title names the event in messages.
func (m *Meta) title() string {
	return fmt.Sprintf("event %d (%s, aggregate %s, sequence %d)", m.Position, m.Type, m.AggregateID, m.Sequence)
}

// Event is an event with payload P, as handlers get it: by value, theirs to keep. Maps and slices in Data are shared with
// other handlers of the event: read them only.
type Event[P any] struct {
	Meta
	Data P
}

// Raw is a stored event before decoding. Type, Data and Metadata are borrowed: they are gone when the next event is read.
type Raw struct {
	Position, Sequence                   int64
	AggregateID                          ID
	Time                                 time.Time
	Type, Data, Metadata                 []byte
	AggregateType, SchemaVersion, Tenant string
	Partition                            ID
}

// Clone returns a copy that is not borrowed.
func (e *Raw) Clone() Raw {
	c := *e
	c.Type, c.Data, c.Metadata = bytes.Clone(e.Type), bytes.Clone(e.Data), bytes.Clone(e.Metadata)
	return c
}

// meta is what handlers get of it. name is the type's, to keep.
func (e *Raw) meta(name string) Meta {
	return Meta{
		Position: e.Position, AggregateID: e.AggregateID, Sequence: e.Sequence, Type: name, Time: e.Time,
		AggregateType: e.AggregateType, Metadata: bytes.Clone(e.Metadata), SchemaVersion: e.SchemaVersion, Tenant: e.Tenant,
		Partition: e.Partition,
	}
}
