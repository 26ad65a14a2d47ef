package projectiontest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/viewschema/projector/projections"
)

// Events is an event store for tests: NewMemoryEvents keeps it in memory, NewTableEvents in a table. The two are alike to
// whoever uses them, and safe for concurrent use.
type Events interface {
	// Append stores events, all or none, and returns them with what the store has filled in: the position, and the time if
	// there is none. Aggregate, sequence number and type are the caller's. An event whose sequence number its aggregate has
	// already is a *ConflictError. Data that is a []byte, a string or a json.RawMessage is stored as it is, other data as JSON.
	Append(ctx context.Context, events ...projections.New) ([]projections.New, error)

	// Read returns the events above a position, of the aggregates if any are named and else of all, in the order of their
	// positions.
	Read(ctx context.Context, after int64, aggregates ...projections.ID) ([]projections.Raw, error)
}

// ErrConflict is what a *ConflictError wraps.
var ErrConflict = errors.New("the aggregate has an event with this sequence number")

// ConflictError is Append's: somebody else was faster. Read the aggregate again, and decide anew.
type ConflictError struct {
	AggregateID projections.ID
	Sequence    int64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("aggregate %s, sequence %d: %v", e.AggregateID, e.Sequence, ErrConflict)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// encode returns the payload as it is stored.
func encode(e projections.New) ([]byte, error) {
	switch data := e.Data.(type) {
	case []byte:
		return data, nil
	case json.RawMessage:
		return data, nil
	case string:
		return []byte(data), nil
	}
	data, err := json.Marshal(e.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: encode the payload: %w", e.Type, err)
	}
	return data, nil
}

// check finds what no store would take.
func check(e projections.New) error {
	switch {
	case e.AggregateID.IsZero():
		return fmt.Errorf("append %s: the event has no aggregate id", e.Type)
	case e.Type == "":
		return fmt.Errorf("append a %T: the event has no type", e.Data)
	case e.Position != 0:
		return fmt.Errorf("append %s: the event has position %d already; positions are the store's to fill in", e.Type, e.Position)
	}
	return nil
}
