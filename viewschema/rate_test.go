package viewschema

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	t.Parallel()
	zero := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds float64) time.Time { return zero.Add(time.Duration(seconds * float64(time.Second))) }
	// every yields n batches of 100 events, one after the other, which take that many seconds each.
	every := func(n int, from, seconds float64) (list []work) {
		for i := range n {
			begun := from + float64(i)*seconds
			list = append(list, work{at(begun), at(begun + seconds), 100})
		}
		return list
	}
	for name, test := range map[string]struct {
		done    []work
		now     float64
		idle    bool
		rate    float64
		buckets []float64
	}{
		"nothing yet":            {now: 3, buckets: []float64{0, 0, 0}},
		"no time":                {now: 0, buckets: []float64{}},
		"one batch":              {done: every(1, 0, 2), now: 2, rate: 50, buckets: []float64{50, 50}},
		"one batch, and nothing": {done: every(1, 0, 2), now: 4, rate: 25, buckets: []float64{50, 50, 0, 0}},
		"half a second":          {done: every(1, 0, 0.5), now: 0.5, rate: 200, buckets: []float64{200}},
		"no time at all":         {done: every(1, 1, 0), now: 2, rate: 100, buckets: []float64{100, 0}},
		"in half of a bucket":    {done: []work{{at(0.5), at(2.5), 200}}, now: 3, rate: 80, buckets: []float64{50, 100, 50}},
		"two at once":            {done: append(every(1, 0, 2), every(1, 0, 2)...), now: 2, rate: 100, buckets: []float64{100, 100}},
		"slower lately":          {done: append(every(10, 0, 1), every(3, 10, 10)...), now: 40, rate: 800. / 35},
		"long batches":           {done: every(10, 0, 100), now: 1000, rate: 1},
		"many in the window":     {done: every(400, 0, 0.1), now: 40, rate: 1000},
		"after a pause":          {done: append(every(20, 0, 1), every(2, 1000, 1)...), now: 1002, rate: 100},
		"nobody at work":         {done: every(10, 0, 1), now: 30, idle: true},
		"between two batches":    {done: every(10, 0, 1), now: 10, idle: true, rate: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slices.SortStableFunc(test.done, func(a, b work) int { return b.done.Compare(a.done) })
			if rate := lately(test.done, at(test.now), !test.idle); !near(rate, test.rate) {
				t.Errorf("%g events/s, want %g", rate, test.rate)
			}
			r := newChart(test.done, zero, at(test.now))
			if len(r.Buckets) > mostBuckets || float64(len(r.Buckets))*r.Width < test.now || r.Buckets == nil {
				t.Errorf("%d buckets of %g s", len(r.Buckets), r.Width)
			}
			var sum, want float64
			for i, rate := range r.Buckets {
				sum += rate * min(r.Width, test.now-float64(i)*r.Width)
				if test.buckets != nil && (len(r.Buckets) != len(test.buckets) || !near(rate, test.buckets[i])) {
					t.Errorf("buckets are %v, want %v", r.Buckets, test.buckets)
				}
			}
			for _, w := range test.done {
				want += float64(w.events)
			}
			if !near(sum, want) {
				t.Errorf("the buckets have %g events, want %g", sum, want)
			}
		})
	}
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-3*max(1, b) }
