package viewschema

import (
	"slices"
	"time"
)

// Rate is how fast events are replayed, by the batches that are done; how far those are that run is not known.
type Rate struct {
	PerSecond float64   `json:"events_per_second"` // lately; 0: nobody is at work, or it is not known yet
	Left      *float64  `json:"left_seconds"`      // of the replay; nil: not known
	From      time.Time `json:"from"`
	Width     float64   `json:"bucket_seconds"`
	Buckets   []float64 `json:"buckets"` // events per second, from From on, at most 120
}

// work is a batch that is done.
type work struct {
	begun, done time.Time
	events      int64
}

const (
	mostBuckets = 120
	rateWindow  = 15 * time.Second
	rateBatches = 8 // fewer say little about the rate
)

// measure derives the rate from the done batches of a migration that began at from. Left are the events that are not in them.
func measure(done []work, from, now time.Time, left int64, working bool) Rate {
	r := Rate{PerSecond: lately(done, now, working)}
	if r.PerSecond > 0 {
		seconds := max(0, float64(left)/r.PerSecond)
		r.Left = &seconds
	}
	r.spread(done, from, now)
	return r
}

// lately is the rate of the batches that were done in the last 15 s, or of the last 8 if those are fewer: from the end of the one
// before them, or if there is none, from their beginning. A time in which nobody worked does not count, and neither does what was
// done before it.
func lately(done []work, now time.Time, working bool) float64 {
	done = slices.SortedFunc(slices.Values(done), func(a, b work) int { return b.done.Compare(a.done) })
	if len(done) == 0 || !working && now.Sub(done[0].done) > rateWindow {
		return 0
	}
	begin, events := now, int64(0)
	for i, w := range done {
		if i > 0 && begin.Sub(w.done) > rateWindow { // a pause
			break
		}
		if i >= rateBatches && now.Sub(w.done) > rateWindow {
			begin = w.done
			break
		}
		begin = earlier(begin, w.begun)
		events += w.events
	}
	if !begin.Before(now) {
		return 0
	}
	return float64(events) / now.Sub(begin).Seconds()
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// spread fills the buckets between the two times: each batch's events evenly over its time.
func (r *Rate) spread(done []work, from, to time.Time) {
	r.From, r.Buckets = from, []float64{}
	total := to.Sub(from)
	if total <= 0 {
		return
	}
	width := max(time.Second, (total+mostBuckets-1)/mostBuckets)
	if rest := width % time.Second; rest > 0 {
		width += time.Second - rest
	}
	r.Width = width.Seconds()
	r.Buckets = make([]float64, (total+width-1)/width)
	for i := range r.Buckets {
		begin := from.Add(time.Duration(i) * width)
		end := earlier(begin.Add(width), to)
		var events float64
		for _, w := range done {
			events += w.between(begin, end)
		}
		r.Buckets[i] = events / end.Sub(begin).Seconds()
	}
}

// between is how many of the events fall between the two times.
func (w work) between(begin, end time.Time) float64 {
	w.begun = earlier(w.begun, w.done.Add(-time.Microsecond)) // PostgreSQL's resolution
	overlap := earlier(w.done, end).Sub(later(w.begun, begin))
	return float64(w.events) * max(0, float64(overlap)/float64(w.done.Sub(w.begun)))
}
