package projectiontest

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// memoryTables are the tables of a test in memory.
type memoryTables struct {
	set     *projections.Set
	memory  *projections.Memory
	store   *MemoryEvents
	mapping eventstore.Mapping
}

func (m *memoryTables) events() Events { return mappedEvents{m.store, m.mapping} }

func (m *memoryTables) pool() *pgxpool.Pool { return nil }

func (m *memoryTables) rows(context.Context) (*projections.Memory, error) { return m.memory, nil }

func (m *memoryTables) project(ctx context.Context, events []projections.New, payloads [][]byte) error {
	appended, err := appendEncoded(ctx, m.events(), events, payloads)
	if err != nil {
		return err
	}
	if err := m.memory.Project(ctx, appended...); err != nil {
		m.store.mu.Lock()
		defer m.store.mu.Unlock()
		m.store.remove(appended)
		return err
	}
	return nil
}

// appendEncoded appends events with payloads that are encoded, and returns them with those that are not.
func appendEncoded(ctx context.Context, to Events, events []projections.New, payloads [][]byte) ([]projections.New, error) {
	encoded := slices.Clone(events)
	for i := range encoded {
		encoded[i].Data = payloads[i]
	}
	appended, err := to.Append(ctx, encoded...)
	for i := range appended {
		appended[i].Data = events[i].Data
	}
	return appended, err
}

// regenerate goes by aggregate, as a rebuild does, if all projectors can do with that.
func (m *memoryTables) regenerate(ctx context.Context) error {
	events, err := m.store.Read(ctx, 0)
	if err != nil {
		return err
	}
	if len(m.set.Ordered()) == 0 {
		slices.SortStableFunc(events, func(a, b projections.Raw) int { return a.AggregateID.Compare(b.AggregateID) })
	}
	raws := make([]*projections.Raw, len(events))
	for i := range events {
		raws[i] = &events[i]
	}
	fresh := m.set.Memory()
	if err := fresh.Apply(ctx, raws...); err != nil {
		return err
	}
	m.memory = fresh
	return nil
}

// mappedEvents has no room for what the definition's mapping has no column for.
type mappedEvents struct {
	*MemoryEvents
	mapping eventstore.Mapping
}

func (m mappedEvents) Append(ctx context.Context, events ...projections.New) ([]projections.New, error) {
	for _, e := range events {
		if err := checkMapped(m.mapping, e); err != nil && m.mapping.Preset == "" {
			return nil, err
		}
	}
	return m.MemoryEvents.Append(ctx, events...)
}
