package projectiontest_test

import (
	"testing"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/projections/projectiontest"
	"github.com/viewschema/projector/viewschema"
)

// Payloads are stored with the version that they have now; those of former versions are given as they lie in the store.
func TestFormerVersions(t *testing.T) {
	t.Parallel()
	type former struct{ Count int64 }
	d := viewschema.Definition{
		Events: []projections.EventType{projections.JSON[Stepped]("Stepped", projections.Version("2"),
			projections.Upcast("1", func(f former) (Stepped, error) { return Stepped{f.Count * 10}, nil }))},
		Projectors: []*projections.Projector{counting},
		Versions:   projector.Versions{1: {projector.Replay(counting)}},
		Source:     eventstore.Mapping{SchemaVersion: "version"},
	}
	test := projectiontest.Memory(t, d)
	test.Given("stairs",
		projections.Raw{Type: []byte("Stepped"), SchemaVersion: "1", Data: []byte(`{"Count": 3}`)},
		Stepped{4})
	test.When("stairs", Stepped{5})
	test.Then(Counter{Name: "stairs", Steps: 39})
}
