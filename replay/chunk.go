package replay

import (
	"sync"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// A chunk is this large: enough that handing it over costs nothing per event, and few bytes for all that are on their way.
const (
	chunkEvents = 1024
	chunkBytes  = 256 << 10
	chunksAhead = 4 // that a worker has not taken yet
)

// chunk is a run of events of one batch on the way from the reader to a worker.
type chunk struct {
	events []projections.Raw
	bytes  []byte // what the events' Data and Metadata point into; it never grows
}

var chunks = sync.Pool{New: func() any {
	return &chunk{events: make([]projections.Raw, 0, chunkEvents), bytes: make([]byte, 0, chunkBytes)}
}}

func newChunk() *chunk { return chunks.Get().(*chunk) }

// free makes the chunk's memory available for another one.
func (c *chunk) free() {
	c.events, c.bytes = c.events[:0], c.bytes[:0]
	chunks.Put(c)
}

func (c *chunk) hasRoom(e *eventstore.Event) bool {
	return len(c.events) < chunkEvents && len(c.bytes)+len(e.Data)+len(e.Metadata) <= chunkBytes
}

// add copies a borrowed event; typ is its type, to keep.
func (c *chunk) add(e *eventstore.Event, typ []byte) {
	raw := e.Raw
	raw.Type, raw.Data, raw.Metadata = typ, c.keep(e.Data), c.keep(e.Metadata)
	c.events = append(c.events, raw)
}

// keep copies b into the chunk. What is larger than a chunk gets memory of its own.
func (c *chunk) keep(b []byte) []byte {
	at := len(c.bytes)
	switch {
	case b == nil:
		return nil
	case at+len(b) > cap(c.bytes):
		return append([]byte{}, b...)
	}
	c.bytes = append(c.bytes, b...)
	return c.bytes[at:len(c.bytes):len(c.bytes)]
}

// types keeps the types of events, which are few.
type types map[string][]byte

func (t types) keep(borrowed []byte) []byte {
	typ, ok := t[string(borrowed)]
	if !ok {
		typ = append([]byte(nil), borrowed...)
		t[string(typ)] = typ
	}
	return typ
}
