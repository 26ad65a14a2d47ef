package viewschema

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// Chart is how fast events were replayed in the course of time, by the batches that are done: each one's events evenly over its time.
type Chart struct {
	From    time.Time `json:"from"`
	Width   float64   `json:"bucket_seconds"`
	Buckets []float64 `json:"buckets"` // events per second, from From on, at most 120
}

// rate tells how fast the migration goes, by the batches that are done, how long the replay takes if it goes on like this, and how it
// went. How far those batches are that run is not known, and nothing of a lane.
func (s *Schema) rate(ctx context.Context, m *migration, st *MigrationStatus) error {
	var now time.Time
	if err := s.db.QueryRow(ctx, "select clock_timestamp()").Scan(&now); err != nil {
		return fmt.Errorf("asking for the time: %w", err)
	}
	done, err := pg.Collect(ctx, s.db, func(row pgx.CollectableRow) (w work, err error) {
		return w, row.Scan(&w.begun, &w.done, &w.events)
	}, s.sql(`
		select coalesce(started_at, done_at), done_at, events
		from %SCHEMA%.projector_batches
		where migration_id = $1 and phase = $2 and done_at is not null
		order by done_at desc`), m.Migration, int(replay.PhaseReplay))
	if err != nil {
		return fmt.Errorf("reading the batches that are done: %w", err)
	}
	if st.Phase != replay.PhaseReplay.String() {
		now = st.Created
		if len(done) > 0 {
			now = done[0].done
		}
	} else if st.PerSecond = lately(done, now, len(st.Workers) > 0); st.PerSecond > 0 {
		seconds := max(0, float64(st.Events-st.EventsDone)/st.PerSecond)
		st.Left = &seconds
	}
	st.chart = newChart(done, st.Created, now)
	return nil
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

// lately is the rate of the batches that were done in the last 15 s, or of the last 8 if those are fewer: from the end of the one
// before them, or if there is none, from their beginning. A time in which nobody worked does not count, and neither does what was
// done before it. The batches are in the order of their ends, the last one first.
func lately(done []work, now time.Time, working bool) float64 {
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

// newChart makes the chart of the time between two.
func newChart(done []work, from, to time.Time) Chart {
	c := Chart{From: from, Buckets: []float64{}}
	total := to.Sub(from)
	if total <= 0 {
		return c
	}
	width := max(time.Second, (total+mostBuckets-1)/mostBuckets)
	if rest := width % time.Second; rest > 0 {
		width += time.Second - rest
	}
	c.Width = width.Seconds()
	c.Buckets = make([]float64, (total+width-1)/width)
	for i := range c.Buckets {
		begin := from.Add(time.Duration(i) * width)
		end := earlier(begin.Add(width), to)
		var events float64
		for _, w := range done {
			events += w.between(begin, end)
		}
		c.Buckets[i] = events / end.Sub(begin).Seconds()
	}
	return c
}

// between is how many of the events fall between the two times.
func (w work) between(begin, end time.Time) float64 {
	w.begun = earlier(w.begun, w.done.Add(-time.Microsecond)) // PostgreSQL's resolution
	overlap := earlier(w.done, end).Sub(later(w.begun, begin))
	return float64(w.events) * max(0, float64(overlap)/float64(w.done.Sub(w.begun)))
}
