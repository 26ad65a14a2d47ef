package replay_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// story is a migration whose writers act at named statements instead of drawn ones. Each step checks ledger and tables.
type story struct {
	*migration
	parts *parts
	t     *testing.T
}

func newStory(t *testing.T, k kind, in tables) *story {
	t.Helper()
	return tell(t, newWorld(t, k, in))
}

// tell begins a story in a world.
func tell(t *testing.T, w *world) *story {
	t.Helper()
	own := w.parts()
	s := &story{migration: w.migration(t.Context(), own, own.on(w.rivals), own.count), parts: own, t: t}
	s.steady = true
	s.add("a", "b") // history
	return s
}

// everywhere tells a story of tables that are filled in Go, in SQL, and in both.
func everywhere(t *testing.T, tell func(t *testing.T, in tables)) {
	for _, in := range []tables{inGo, inSQL, inBoth} {
		t.Run(string(in), func(t *testing.T) {
			t.Parallel()
			tell(t, in)
		})
	}
}

// must keeps the first error for the end of the step: hooks run in the goroutines of workers.
func (s *story) must(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(err)
}

// add appends events, one to each aggregate, and commits them.
func (s *story) add(to ...string) {
	for _, aggregate := range to {
		s.must(s.world.writers[0].append(s.t.Context(), aggregate, "Added", how{}))
	}
	s.must(s.world.writers[0].finish(s.t.Context(), true))
}

func (s *story) exec(sql string) {
	_, err := s.world.admin.Exec(s.t.Context(), sql)
	s.must(err)
}

// do runs a step by its name, with what happens in them.
func (s *story) do(phase string, patient bool, hooks ...hook) {
	s.t.Helper()
	before := s.ctx
	s.ctx = withHook(before, func(conn *pgx.Conn, sql string) {
		s.hook(conn, sql)
		for _, h := range hooks {
			h(conn, sql)
		}
	})
	defer func() { s.ctx = before }()
	if phase == phaseBegin {
		_, err := s.look()
		s.must(err)
	}
	fn := map[string]func() error{phaseBegin: s.begin, phaseRun: s.run, phaseCatchUp: s.catchUp, phaseCutover: s.cutover}[phase]
	if err := s.step(phase, step{Patient: patient}, fn); err != nil {
		s.t.Fatal(err)
	}
}

// at does fn before the nth statement that contains text.
func at(text string, n int32, fn func()) hook {
	var seen atomic.Int32
	return func(_ *pgx.Conn, sql string) {
		if strings.Contains(sql, text) && seen.Add(1) == n {
			fn()
		}
	}
}

// Statements of a migration.
const (
	listLacking = "group by"
	readEvents  = "order by e.\"aggregate_id\", e.\"sequence_number\""
	recordIDs   = "projector_replayed_ids (migration_id"
	markDone    = "set events = $3"
	lookWriters = "pg_locks"
	activate    = "state = 'active'"
	enter       = "for key share"
	applyGroup  = "synchronous_commit = off"
	emptyTable  = "delete from \"view_schema\".\"t"
	fillTable   = "insert into \"view_schema\".\"t"
)

// ways are those in which a transaction can hold a position that it has not committed.
var ways = map[string]struct {
	kind kind
	open func(ctx context.Context, wr *writer) error
}{
	"insert":                         {plain, func(ctx context.Context, wr *writer) error { return wr.append(ctx, "c", "Added", how{}) }},
	"number drawn before the insert": {plain, func(ctx context.Context, wr *writer) error { return wr.draw(ctx) }},
	"number drawn in a savepoint that is rolled back": {plain, func(ctx context.Context, wr *writer) error {
		return firstError(func() error { return wr.append(ctx, "c", "Added", how{undo: true}) }, func() error { return wr.append(ctx, "c", "Added", how{}) })
	}},
	"insert into a partition": {partitioned, func(ctx context.Context, wr *writer) error { return wr.append(ctx, "c", "Added", how{leaf: true}) }},
	"insert of a number drawn in an earlier transaction": {plain, func(ctx context.Context, wr *writer) error {
		return firstError(func() error { return wr.drawEarlier(ctx) }, func() error { return wr.append(ctx, "c", "Added", how{drawn: true}) })
	}},
	"insert of such a number into a partition": {partitioned, func(ctx context.Context, wr *writer) error {
		return firstError(func() error { return wr.drawEarlier(ctx) }, func() error { return wr.append(ctx, "c", "Added", how{drawn: true, leaf: true}) })
	}},
	"prepared transaction": {plain, func(ctx context.Context, wr *writer) error {
		return firstError(func() error { return wr.append(ctx, "c", "Added", how{}) }, func() error { return wr.prepare(ctx) })
	}},
	"transaction that shares its id among events": {shared, func(ctx context.Context, wr *writer) error {
		return firstError(func() error { return wr.append(ctx, "c", "Added", how{}) }, func() error { return wr.append(ctx, "b", "Added", how{}) })
	}},
	"transaction that has an id and no event yet": {shared, func(ctx context.Context, wr *writer) error { return wr.draw(ctx) }},
	"number drawn in an earlier transaction":      {cached, func(ctx context.Context, wr *writer) error { return wr.draw(ctx) }},
}

func firstError(fns ...func() error) error {
	for _, fn := range fns {
		if err := fn(); err != nil {
			return err
		}
	}
	return nil
}

// A transaction that holds a position while another commits a higher one, across each step. Seen to fail:
//   - at the start and across a catch-up, all but the last way, without the wait in Settle;
//   - the number drawn before the insert, with the sequence left out of it;
//   - the insert of a number drawn before, with the event table left out of it, and into a partition, with those left out;
//   - the prepared transaction, when waiting for processes instead of virtual transactions;
//   - the number from an earlier transaction, with the cache left out of Distrust;
//   - across the cutover, all, without the writers' lock.
func TestLateCommits(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		for name, way := range ways {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newStory(t, way.kind, in)
				late := s.world.writers[1]
				open := func() {
					s.must(way.open(t.Context(), late))
					s.add("d")
				}
				// The late one uses what it has drawn and commits.
				end := func() {
					if len(late.drawn) > 0 {
						s.must(late.append(t.Context(), "c", "Added", how{drawn: true}))
					}
					s.must(late.finish(t.Context(), true))
				}
				open()
				s.do(phaseBegin, true, at(lookWriters, 2, end))
				s.do(phaseRun, false)
				end() // if nobody has waited

				s.do(phaseCatchUp, true)
				open()
				s.do(phaseCatchUp, false)
				end()
				s.do(phaseCatchUp, true)

				open()
				s.do(phaseCutover, false, at(activate, 1, end))
			})
		}
	})
}

// A position above what the sequence has given out did not come from it, and so others below may come later: the cut is
// 0 and they are found. Seen to lose the second event with this rule taken out of Distrust.
func TestPositionFromElsewhere(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		s := newStory(t, plain, in)
		insert := func(position int) {
			_, err := s.world.admin.Exec(t.Context(), `
			insert into events (position, aggregate_id, sequence_number, event_type, data)
			select $1::int, 'a', max(sequence_number) + 1, 'Added', '{"amount": 1}' from events where aggregate_id = 'a'`, position)
			s.must(err)
		}
		insert(100)
		s.parts.reason = "has reached 100"
		s.do(phaseBegin, true)
		s.do(phaseRun, false)
		insert(50)
		s.do(phaseCatchUp, true)
		insert(40)
		s.do(phaseCutover, false)
	})
}

// With a cut of 0, the ledger has each transaction of each aggregate, and the events that have none. Seen to repeat the latter
// with a position of 0.
func TestTransactionsWithoutACut(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		s := newStory(t, shared, in)
		s.exec("alter table events alter position drop not null; update events set position = null")
		late := s.world.writers[1]
		s.must(late.append(t.Context(), "a", "Added", how{}))
		s.must(late.append(t.Context(), "c", "Added", how{}))
		s.parts.bounds = []string{"b"}
		s.do(phaseBegin, true)
		s.exec("update view_schema.projector_migrations set cut = 0")
		place := handling
		if in == inSQL {
			place = fillTable
		}
		s.do(phaseRun, false, at(place, 1, func() { s.must(late.finish(t.Context(), true)) }))
		s.add("b")
		s.do(phaseCatchUp, true)
		s.do(phaseCutover, false)
	})
}

// The first cut timed out at 0 because of an open writer, who commits at each place of a batch of its aggregate: what the
// batch has read is recorded, and nothing else. Seen to fail with the ids read in a statement of their own, with none
// recorded, and with those left out whose type nobody handles.
func TestCommitDuringItsBatch(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		for _, place := range []string{"for update", readEvents, handling, recordIDs, fillTable, markDone} {
			t.Run(place, func(t *testing.T) {
				t.Parallel()
				s := newStory(t, plain, in)
				late := s.world.writers[1]
				s.must(late.append(t.Context(), "a", "Added", how{}))
				s.must(s.world.writers[0].append(t.Context(), "d", "Noted", how{}))
				s.add("b")
				s.do(phaseBegin, false)
				s.do(phaseRun, false, at(place, 1, func() {
					s.must(late.finish(t.Context(), true))
					s.add("a", "c")
				}))
				s.do(phaseCatchUp, true)
				s.do(phaseCutover, false)
			})
		}
	})
}

// An event that is committed after the pass has listed what it has to do is above the pass's cut. Seen to lose it with the
// settling moved behind the pass.
func TestCommitBetweenThePassAndItsSettling(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		for _, point := range []pg.Point{pg.PointList, pg.PointGroup} {
			t.Run(string(point), func(t *testing.T) {
				t.Parallel()
				s := newStory(t, plain, in)
				s.do(phaseBegin, true)
				s.do(phaseRun, false)
				s.add("a")
				once := true
				s.ctx = pg.WithFault(s.ctx, func(m pg.Moment, p pg.Point) {
					if m == pg.After && p == point && once {
						once = false
						s.add("a", "c")
					}
				})
				s.do(phaseCatchUp, true)
				s.do(phaseCutover, false)
			})
		}
	})
}

// A writer appends to an aggregate at each place of its group: what is recorded has been seen. Seen to fail for SQL tables
// with the positions recorded after the rows are computed.
func TestCommitDuringItsGroup(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		for _, place := range []string{readEvents, recordIDs, handling, emptyTable, fillTable, "set cut ="} {
			t.Run(place, func(t *testing.T) {
				t.Parallel()
				s := newStory(t, plain, in)
				s.do(phaseBegin, true)
				s.do(phaseRun, false)
				s.add("a", "c")
				s.do(phaseCatchUp, true, at(place, 1, func() { s.add("a", "c") }))
				s.do(phaseCatchUp, true)
				s.do(phaseCutover, false)
			})
		}
	})
}

// Another pass goes as far as it can at each place of ours. Seen to fail:
//   - before the events are read: with no lock on the migration's row, or with FOR KEY SHARE for FOR UPDATE;
//   - before the ids are recorded: with conflicts ignored, or not tried again;
//   - before the cut is moved: when it may move back;
//   - before an event is handled: with the ids recorded after the load (the projector sees its event again).
func TestTwoPassesAtOnce(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		for _, place := range []string{listLacking, readEvents, enter, recordIDs, handling, emptyTable, fillTable, "set cut =", "for update"} {
			t.Run(place, func(t *testing.T) {
				t.Parallel()
				s := newStory(t, plain, in)
				s.do(phaseBegin, true)
				s.do(phaseRun, false)
				s.add("a", "b", "c")
				s.add("a", "b", "c")
				nth := int32(1)
				if place == enter {
					nth = 2 // the first is that of the pass
				}
				rival := func() {
					if s.phase != phaseCutover {
						s.add("a") // only the rival finds it, unless we have still to read
					}
					s.must(s.startRival(t.Context()))
				}
				s.do(phaseCatchUp, true, at(place, nth, rival))
				s.add("a")
				s.do(phaseCutover, false, at(place, 1, rival))
			})
		}
	})
}

// Another worker comes while ours is at a batch: it waits for it. Seen to fail without the lock on the batch.
func TestTwoWorkersOneBatch(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		for _, place := range []string{readEvents, handling, fillTable, markDone} {
			t.Run(place, func(t *testing.T) {
				t.Parallel()
				s := newStory(t, plain, in)
				s.do(phaseBegin, true)
				s.do(phaseRun, false, at(place, 1, func() {
					s.add("a")
					s.must(s.startRival(t.Context()))
				}))
				s.do(phaseCutover, false)
			})
		}
	})
}

// A writer that comes while Settle waits for another is above the cut, though a higher position is committed before the
// wait is over. Seen to lose its event with the highest position read after the wait.
func TestWriterThatComesDuringTheWait(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		s := newStory(t, plain, in)
		first, second := s.world.writers[1], s.world.writers[2]
		s.must(first.append(t.Context(), "a", "Added", how{}))
		s.add("b")
		s.do(phaseBegin, true, at(lookWriters, 2, func() {
			s.must(second.append(t.Context(), "c", "Added", how{}))
			s.add("d")
			s.must(first.finish(t.Context(), true))
		}))
		s.do(phaseRun, false)
		s.must(second.finish(t.Context(), true))
		s.do(phaseCatchUp, true)
		s.do(phaseCutover, false)
	})
}
