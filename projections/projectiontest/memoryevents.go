package projectiontest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/viewschema/projector/projections"
)

// MemoryEvents is an event store in memory. Positions count from 1; like those of a table, they have gaps where an Append
// has failed.
type MemoryEvents struct {
	mu     sync.Mutex
	drawn  int64
	events []projections.Raw
	taken  map[place]bool
}

type place struct {
	aggregate projections.ID
	sequence  int64
}

// NewMemoryEvents returns an empty event store.
func NewMemoryEvents() *MemoryEvents { return &MemoryEvents{taken: map[place]bool{}} }

// Append implements Events.
func (m *MemoryEvents) Append(_ context.Context, events ...projections.New) ([]projections.New, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	appended := slices.Clone(events)
	for i := range appended {
		if err := m.add(&appended[i]); err != nil {
			m.remove(appended[:i])
			return nil, err
		}
	}
	return appended, nil
}

func (m *MemoryEvents) add(e *projections.New) error {
	if err := check(*e); err != nil {
		return err
	}
	data, err := encode(*e)
	if err != nil {
		return err
	}
	m.drawn++
	if m.taken[place{e.AggregateID, e.Sequence}] {
		return &ConflictError{e.AggregateID, e.Sequence}
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Position, e.Time = m.drawn, e.Time.Truncate(time.Microsecond).UTC()
	m.taken[place{e.AggregateID, e.Sequence}] = true
	m.events = append(m.events, projections.Raw{
		Position: e.Position, AggregateID: e.AggregateID, Sequence: e.Sequence, Type: []byte(e.Type), Time: e.Time,
		Data: slices.Clone(data), Metadata: slices.Clone(e.Metadata),
		AggregateType: e.AggregateType, SchemaVersion: e.SchemaVersion, Tenant: e.Tenant, Partition: partitionOf(*e),
	})
	return nil
}

// remove takes events out again that nobody has read.
func (m *MemoryEvents) remove(events []projections.New) {
	positions := map[int64]bool{}
	for _, e := range events {
		delete(m.taken, place{e.AggregateID, e.Sequence})
		positions[e.Position] = true
	}
	m.events = slices.DeleteFunc(m.events, func(e projections.Raw) bool { return positions[e.Position] })
}

// Read implements Events.
func (m *MemoryEvents) Read(_ context.Context, after int64, aggregates ...projections.ID) ([]projections.Raw, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var events []projections.Raw
	for _, e := range m.events {
		if e.Position > after && (len(aggregates) == 0 || slices.Contains(aggregates, e.AggregateID)) {
			events = append(events, e.Clone())
		}
	}
	return events, nil
}

// partitionOf is what a mapping would make of the event.
func partitionOf(e projections.New) projections.ID {
	if e.Partition == projections.NoPartition {
		return projections.ID{}
	}
	return e.Partition
}
