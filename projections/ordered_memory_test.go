package projections_test

import (
	"maps"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/viewschema/projector/projections"
)

// In memory, too.
func TestByPositionInMemoryIsAFold(t *testing.T) {
	t.Parallel()
	set := placesSet(t)
	rapid.Check(t, func(rt *rapid.T) {
		memory, want := set.Memory(), map[seat]place{}
		var batch []*projections.Raw
		for i, b := range seatings.Draw(rt, "seatings") {
			foldSeating(want, int64(i+1), b)
			batch = append(batch, booked(int64(i+1), b))
			if rapid.IntRange(0, 3).Draw(rt, "cut") > 0 {
				continue
			}
			if err := memory.Apply(rt.Context(), batch...); err != nil {
				rt.Fatal(err)
			}
			batch = nil
		}
		if err := memory.Apply(rt.Context(), batch...); err != nil {
			rt.Fatal(err)
		}
		_, rows, err := memory.Rows(reflect.TypeFor[place]())
		if err != nil {
			rt.Fatal(err)
		}
		got := map[seat]place{}
		for _, row := range rows {
			p := row.Value.(place)
			got[seat{p.Train, p.Seat}] = p
		}
		if !maps.Equal(got, want) {
			rt.Fatalf("got\n%v\nwant\n%v", got, want)
		}
	})
}
