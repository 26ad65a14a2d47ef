package projections_test

import (
	"fmt"
	"testing"

	"github.com/viewschema/projector/projections"
)

// Handlers get what the store has besides the payload, in a rebuild as in a catch-up, and may keep it: the events' memory is
// used again.
func TestMeta(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*projections.Set) *projections.Run{
		"rebuild": (*projections.Set).Rebuild, "catch-up": (*projections.Set).CatchUp,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var kept []projections.Meta
			db, set := bank(t, custom(func(_ *projections.Store, m projections.Meta) error {
				kept = append(kept, m)
				return nil
			}))
			e := ev(1, ada, 1, "MoneyDeposited", `{"amount": 1}`)
			e.AggregateType, e.Metadata, e.SchemaVersion, e.Tenant = "Account", []byte(`{"by": "x"}`), "2", "north"
			if _, err := apply(t.Context(), db, start(set), e, ev(2, ada, 2, "MoneyDeposited", `{"amount": 1}`)); err != nil {
				t.Fatal(err)
			}
			clear(e.Metadata)
			for i, want := range []string{`Account {"by": "x"} 2 north`, `   `} {
				m := kept[i]
				if got := fmt.Sprintf("%s %s %s %s", m.AggregateType, m.Metadata, m.SchemaVersion, m.Tenant); got != want {
					t.Errorf("event %d: got %q, want %q", m.Position, got, want)
				}
			}
		})
	}
}
