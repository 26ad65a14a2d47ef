package replay

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// meter tells how far a job is: what the batches say, which is the truth over all processes, plus the events that this
// process has read in batches that are not done.
type meter struct {
	job      *Job
	began    time.Time
	inFlight atomic.Int64
	own      struct{ events, rows atomic.Int64 } // of this process
	times    struct{ read, wait, decode, apply, write, index atomic.Int64 }

	committed atomic.Int64  // events of batches, that no look knows of yet
	changed   chan struct{} // there is something to look for

	mu   sync.Mutex
	last Progress
}

// Times is where the time of this process went, summed over its readers and workers.
type Times struct {
	Read   time.Duration // readers: waiting for events from the server
	Decode time.Duration // workers: decoding payloads, from a sample
	Apply  time.Duration // workers: handlers, and encoding their rows
	Write  time.Duration // workers: storing rows and ledger entries
	Index  time.Duration // workers: indexes and statistics
	Wait   time.Duration // workers: waiting for a reader
}

func newMeter(j *Job) *meter {
	return &meter{job: j, began: time.Now(), changed: make(chan struct{}, 1)}
}

// spent adds the time since then to a sum, and returns now.
func (m *meter) spent(sum *atomic.Int64, since time.Time) (now time.Time) {
	now = time.Now()
	sum.Add(int64(now.Sub(since)))
	return now
}

// applied takes down how long events took to apply, and what of that went elsewhere.
func (m *meter) applied(took time.Duration, elsewhere projections.Spent) {
	m.times.decode.Add(int64(elsewhere.Decode))
	m.times.write.Add(int64(elsewhere.Store))
	m.times.apply.Add(int64(took - elsewhere.Decode - elsewhere.Store))
}

// read takes down that this process has read events of a batch that is not done, or that it has given them up.
func (m *meter) read(events int64) {
	m.inFlight.Add(events)
	m.own.events.Add(events)
}

// batchDone takes down that a batch was committed, whose events were read.
func (m *meter) batchDone(b batch, events, rows int64) {
	m.own.rows.Add(rows)
	m.job.Log.Debug().Stringer("batch", b).Int64("events", events).Msg("batch done")
	m.tell(events)
}

// laneMoved takes down that the lane has come further. Its events are those of the batches, if there are any.
func (m *meter) laneMoved(done Applied) {
	if !m.job.HasBatches() {
		m.own.events.Add(done.Events)
	}
	m.own.rows.Add(done.Rows)
	m.tell(0)
}

// tell asks for a look after a commit of so many events. Whoever has committed does not wait for it.
func (m *meter) tell(committed int64) {
	m.committed.Add(committed)
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// watch looks when it is asked to. A look that fails is made up for by the next one.
func (m *meter) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
			if err := m.look(ctx); err != nil {
				m.job.Log.Debug().Err(err).Msg("cannot tell the progress")
			}
		}
	}
}

// look reads the batches: what was committed before is no longer in flight. What is left of the estimate is corrected by what the
// done batches really held.
func (m *meter) look(ctx context.Context) error {
	committed := m.committed.Load()
	p, replayed, err := m.job.lookAtBatches(ctx, m.job.DB)
	if err == nil && m.job.hasLane() {
		err = m.job.addLane(ctx, m.job.DB, &p, replayed)
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.committed.Add(-committed)
	m.inFlight.Add(-committed)
	m.last = p
	return nil
}

// left is about how many events are in batches that are not done.
func (m *meter) left() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last.Events - m.last.EventsDone
}

func (m *meter) progress() Progress {
	m.mu.Lock()
	p := m.last
	p.EventsDone += m.inFlight.Load()
	m.mu.Unlock()
	p.Events = max(p.Events, p.EventsDone)
	p.OwnEvents, p.OwnRows = m.own.events.Load(), m.own.rows.Load()
	p.Elapsed = time.Since(m.began)
	sum := func(ns *atomic.Int64) time.Duration { return max(0, time.Duration(ns.Load())) } // what is sampled may be too much
	p.Times = Times{
		Read: sum(&m.times.read), Decode: sum(&m.times.decode), Apply: sum(&m.times.apply),
		Write: sum(&m.times.write), Index: sum(&m.times.index), Wait: sum(&m.times.wait),
	}
	return p
}

// start reports progress until the returned function is called, which returns and reports the last one.
func (m *meter) start(ctx context.Context) (stop func() Progress) {
	watching, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { m.watch(watching) })
	report := Report(ctx, m.job.Progress, m.progress)
	return func() Progress {
		cancel()
		watcher.Wait()
		if err := m.look(ctx); err != nil {
			m.job.Log.Debug().Err(err).Msg("cannot tell the progress")
		}
		return report()
	}
}

// Report calls to with what read returns, every 100 ms, until the returned function is called, which reports once more and
// returns it. A nil to is not called. There is one goroutine at a time that calls it.
func Report(ctx context.Context, to func(Progress), read func() Progress) (stop func() Progress) {
	if to == nil {
		return read
	}
	end := Every(ctx, 100*time.Millisecond, func(context.Context) { to(read()) })
	return func() Progress {
		end()
		p := read()
		to(p)
		return p
	}
}

// Every calls fn after each interval, from one goroutine, until ctx ends or the returned function is called, which waits until fn has
// returned.
func Every(ctx context.Context, interval time.Duration, fn func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				fn(ctx)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// Look reads how far the batches are, over all processes. Batches that are being worked on count as pending.
func (l Ledger) Look(ctx context.Context, q pg.Querier) (Progress, error) {
	p, replayed, err := l.lookAtBatches(ctx, q)
	if err == nil {
		err = l.addLane(ctx, q, &p, replayed)
	}
	return p, err
}

// lookAtBatches also says whether there are batches that replay.
func (l Ledger) lookAtBatches(ctx context.Context, q pg.Querier) (p Progress, replayed bool, err error) {
	err = q.QueryRow(ctx, l.sql(`
		with b as (
			select *, min(phase) filter (where done_at is null) over () as now
			from %SCHEMA%.projector_batches
			where migration_id = $1
		)
		select coalesce(min(now), $2),
			count(*) filter (where phase = now),
			count(*) filter (where phase = now and done_at is not null),
			coalesce(sum(case when done_at is null then estimate else events end), 0)::bigint,
			coalesce(sum(events), 0)::bigint,
			coalesce(sum(rows), 0)::bigint,
			coalesce(bool_or(phase = 1), false)
		from b`), pg.Once, l.Migration, int(PhaseDone)).
		Scan(&p.Phase, &p.Batches, &p.BatchesDone, &p.Events, &p.EventsDone, &p.Rows, &replayed)
	if err != nil {
		return Progress{}, false, fmt.Errorf("reading the progress of migration %d: %w", l.Migration, err)
	}
	return p, replayed, nil
}

// addLane reads how far the lane is, if there is one.
func (l Ledger) addLane(ctx context.Context, q pg.Querier, p *Progress, replayed bool) (err error) {
	if p.Lane, err = l.LookAtLane(ctx, q); err != nil || p.Lane == nil {
		return err
	}
	p.Rows += p.Lane.Rows
	if !replayed { // else the lane's events are among those of the batches
		p.Events, p.EventsDone = p.Lane.Events, p.Lane.Events
	}
	return nil
}
