package projections_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

type heavy struct {
	bun.BaseModel `bun:"table:heavies"`
	ID            uuid.UUID         `bun:"id,pk"`             // 16
	Name          string            `bun:"name"`              // 1 + 4
	Nickname      *string           `bun:"nickname"`          // nothing
	Friend        *string           `bun:"friend"`            // 1 + 3
	Count         int32             `bun:"count"`             // 8
	Open          bool              `bun:"open"`              // 1
	At            time.Time         `bun:"at"`                // 8
	Raw           json.RawMessage   `bun:"raw"`               // 4 + 2
	Labels        map[string]string `bun:"labels,type:jsonb"` // 4 + 9
}

// Weights counts the rows that stay, and the bytes of their values.
func TestWeights(t *testing.T) {
	t.Parallel()
	rows := projections.NewRows(func(h *heavy) uuid.UUID { return h.ID })
	type opened struct{}
	type closed struct{}
	set, err := projections.NewSet([]projections.EventType{projections.JSON[opened]("Opened"), projections.JSON[closed]("Closed")}, &projections.Projector{
		Name: "heavies", Tables: []projections.Table{rows},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[opened]) error {
				friend := "Bob"
				return rows.Create(s, heavy{ID: e.AggregateID.UUID(), Name: "Anna", Friend: &friend, Raw: json.RawMessage("{}"), Labels: map[string]string{"a": "b"}})
			}),
			projections.On(func(s *projections.Store, e projections.Event[closed]) error {
				return rows.Delete(s, e.AggregateID.UUID())
			}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := set.Memory()
	if err := m.Apply(t.Context(), ev(1, ada, 1, "Opened", "{}"), ev(2, bob, 1, "Opened", "{}"), ev(3, bob, 2, "Closed", "{}")); err != nil {
		t.Fatal(err)
	}
	want := []projections.Weight{{Table: "heavies", Rows: 1, Bytes: 28 + 16 + 5 + 4 + 8 + 1 + 8 + 6 + 13}}
	if got := m.Weights(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
