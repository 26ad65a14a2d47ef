package projections

import "time"

// Meta is what every event has.
type Meta struct {
	Position    int64 // its place in the whole store
	AggregateID ID
	Sequence    int64     // its place in its aggregate
	Type        string    // as stored
	Time        time.Time // zero if the store has none
}

// Event is an event with payload P, as handlers get it: by value, theirs to keep. Maps and slices in Data are shared with
// other handlers of the event: read them only.
type Event[P any] struct {
	Meta
	Data P
}

// Raw is a stored event before decoding. Type and Data are borrowed: they are gone when the next event is read.
type Raw struct {
	Position, Sequence int64
	AggregateID        ID
	Time               time.Time
	Type, Data         []byte
}
