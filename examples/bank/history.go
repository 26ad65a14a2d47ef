package bank

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/projections"
)

// Fill creates n events of made-up customers in an empty event store, in bulk and without projecting them. The same seed
// makes the same events.
func Fill(ctx context.Context, conn *pgx.Conn, n int, seed uint64) error {
	if err := NewHistory(seed).Append(ctx, conn, n); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "analyze events")
	return err
}

// History is what made-up customers do, event by event. Only one goroutine at a time may use it.
type History struct {
	customers *Customers
	pending   []projections.New
}

// NewHistory returns a history that begins with the first account. The same seed makes the same events.
func NewHistory(seed uint64) *History { return &History{customers: NewCustomers(seed)} }

// Skip goes over the next n events: those that the store has.
func (h *History) Skip(n int) {
	for range n {
		h.next()
	}
}

func (h *History) next() projections.New {
	if len(h.pending) == 0 {
		h.pending = h.customers.Act()
	}
	e := h.pending[0]
	h.pending = h.pending[1:]
	return e
}

// Append adds the next n events to the store, one for each of the last n seconds, in bulk and without projecting them.
func (h *History) Append(ctx context.Context, conn *pgx.Conn, n int) error {
	at := time.Now().Add(-time.Duration(n) * time.Second).Truncate(time.Second)
	row := func(int) ([]any, error) {
		e := h.next()
		at = at.Add(time.Second)
		data, err := json.Marshal(e.Data)
		return []any{e.AggregateID.UUID(), e.Sequence, e.Type, data, at}, err
	}
	columns := []string{"aggregate_id", "sequence_number", "event_type", "data", "created_at"}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"events"}, columns, pgx.CopyFromSlice(n, row)); err != nil {
		return fmt.Errorf("filling the event store: %w", err)
	}
	return nil
}
