package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// apart is a schema whose events are in another database.
func apart(t *testing.T, views, events *pgxpool.Pool, o viewschema.Options) *viewschema.Schema {
	t.Helper()
	o.Events, o.Log = events, zerolog.New(zerolog.NewTestWriter(t))
	s, err := viewschema.Open(views, version2(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// verifyApart holds the live tables against the events that the ledger of the migration knows, which have to be all that
// came before the cutover: while it held off writers, no position was drawn, so every later one is higher.
func verifyApart(t *testing.T, views, events *pgxpool.Pool) (later int64) {
	t.Helper()
	var cut, highest int64
	err := views.QueryRow(t.Context(), `
		select cut, greatest(cut, (select max(position) from view_schema.projector_replayed_ids r where r.migration_id = m.id))
		from view_schema.projector_migrations m where state = 'active'`).Scan(&cut, &highest)
	if err != nil {
		t.Fatal(err)
	}
	if err := events.QueryRow(t.Context(), "select count(*) from events where position > $1", highest).Scan(&later); err != nil {
		t.Fatal(err)
	}
	if _, err := views.Exec(t.Context(), bank.EventTable); err != nil {
		t.Fatal(err)
	}
	rows, err := events.Query(t.Context(), "select * from events where position <= $1", highest)
	if err != nil {
		t.Fatal(err)
	}
	columns := []string{"position", "aggregate_id", "sequence_number", "event_type", "data", "created_at"}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := views.CopyFrom(t.Context(), pgx.Identifier{"events"}, columns, pgx.CopyFromRows(all)); err != nil {
		t.Fatal(err)
	}
	verify(t, views, 2)
	return later
}

// Events in one database, views in another: writers append at full speed through catch-ups and the cutover. Seen to fail
// without the writers' lock there.
func TestEventsElsewhere(t *testing.T) {
	t.Parallel()
	events, views := pgtest.Database(t, atVersion1), pgtest.Database(t, nil)
	stop := writers(t, events, 3, rand.Uint64(), v1.Definition)
	s := apart(t, views, events, viewschema.Options{})
	if _, err := s.Plan(t.Context()); err != nil {
		t.Error(err)
	}
	online(t, s)
	for range 3 {
		if _, err := s.CatchUp(t.Context()); err != nil {
			t.Error(err)
		}
	}
	st, err := s.Status(t.Context())
	if err != nil || st.Migration == nil {
		t.Errorf("status %+v: %v", st, err)
	}
	offline(t, s)
	stop()
	t.Logf("%d events came after the cutover", verifyApart(t, views, events))
}

// While a worker commits a batch, which can take some round trips, another one already applies the reader's next batch.
func TestBatchesOverlapElsewhere(t *testing.T) {
	t.Parallel()
	events, views := pgtest.Database(t, filledStore), pgtest.Database(t, nil)
	s := apart(t, views, events, viewschema.Options{Workers: 1})
	var batches atomic.Int32
	second := make(chan struct{})
	ctx := pg.WithFault(t.Context(), func(m pg.Moment, p pg.Point) {
		if m != pg.Before || p != pg.PointBatch {
			return
		}
		switch batches.Add(1) {
		case 1:
			select {
			case <-second:
			case <-time.After(time.Minute):
				t.Error("no other batch was applied while one was about to commit")
			}
		case 2:
			close(second)
		}
	})
	if _, err := s.MigrateOnline(ctx); err != nil {
		t.Fatal(err)
	}
	offline(t, s)
	verifyApart(t, views, events)
}

// Between the last look at the lock in the other database and the commit nothing can be proven. What comes then is said.
func TestLockLostElsewhere(t *testing.T) {
	t.Parallel()
	for _, late := range []int{0, 2} {
		t.Run(fmt.Sprint(late, " events"), func(t *testing.T) {
			t.Parallel()
			events, views := pgtest.Database(t, atVersion1), pgtest.Database(t, nil)
			s := apart(t, views, events, viewschema.Options{})
			online(t, s)
			once := true
			ctx := pg.WithFault(t.Context(), func(m pg.Moment, p pg.Point) {
				if m != pg.Before || p != pg.PointCutover || !once {
					return
				}
				once = false
				var ended bool
				err := events.QueryRow(context.WithoutCancel(t.Context()), `
					select bool_and(pg_terminate_backend(pid, 5000))
					from pg_locks
					where database = (select oid from pg_database where datname = current_database()) -- copies of a database have the same ids
					  and relation = 'events'::regclass and mode = 'ShareRowExclusiveLock' and granted`).Scan(&ended)
				if err != nil || !ended {
					t.Errorf("ended %v: %v", ended, err)
				}
				for range late {
					if _, err := events.Exec(context.WithoutCancel(t.Context()), openAccount); err != nil {
						t.Error(err)
					}
				}
			})
			_, err := s.MigrateOffline(ctx)
			switch {
			case late == 0 && err != nil:
				t.Error(err)
			case late > 0 && (!errors.Is(err, viewschema.ErrLockLost) || !strings.Contains(err.Error(), "2 events")):
				t.Errorf("the events were lost in silence: %v", err)
			}
			if v, err := s.CurrentVersion(t.Context()); v != 2 || err != nil {
				t.Errorf("version %d: %v", v, err)
			}
		})
	}
}

// A role that may only read the event store is enough for all but the lock, which --maintenance does without.
func TestReadOnlyElsewhere(t *testing.T) {
	t.Parallel()
	events, views := pgtest.Database(t, atVersion1), pgtest.Database(t, nil)
	reader := fmt.Sprintf("reader_%d", rand.Uint64())
	if _, err := events.Exec(t.Context(), "create role "+reader+" login; grant select on events, events_position_seq to "+reader); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := events.Exec(context.WithoutCancel(t.Context()), "drop owned by "+reader+"; drop role "+reader); err != nil {
			t.Error(err)
		}
	})
	limited := connecting(t, events, func(c *pgx.ConnConfig) { c.User = reader })
	s := apart(t, views, limited, viewschema.Options{})
	if r := online(t, s); r.CutReason != "" {
		t.Errorf("no cut: %s", r.CutReason)
	}
	if _, err := events.Exec(t.Context(), openAccount); err != nil {
		t.Fatal(err)
	}
	if r, err := s.CatchUp(t.Context()); err != nil || r.Events != 1 {
		t.Errorf("%+v: %v", r, err)
	}
	if _, err := s.MigrateOffline(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "--maintenance") {
		t.Errorf("without the right to lock: %v", err)
	}
	offline(t, apart(t, views, limited, viewschema.Options{Maintenance: true}))
	verifyApart(t, views, events)
}

// A server of the events that has taken over may lack events that were replayed, and give out their positions again. Seen to go
// on with the cut alone held against what was given out.
func TestPositionsGoBackElsewhere(t *testing.T) {
	t.Parallel()
	events, views := pgtest.Database(t, filledStore), pgtest.Database(t, nil)
	s := apart(t, views, events, viewschema.Options{})
	built := online(t, s)
	late := lateCommit(t, events) // keeps the cut where it is
	if r, err := s.CatchUp(t.Context()); err != nil || r.Events != 1 || r.Cut != built.Cut {
		t.Fatalf("%+v: %v", r, err)
	}
	if err := late.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := events.Exec(t.Context(), "delete from events where position > $1", built.Cut); err != nil {
		t.Fatal(err)
	}
	if _, err := events.Exec(t.Context(), "select setval('events_position_seq', $1)", built.Cut); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CatchUp(t.Context()); err == nil || !strings.Contains(err.Error(), "went back") {
		t.Errorf("%v", err)
	}
}

// A half-built table is not finished from another event store.
func TestAnotherStoreElsewhere(t *testing.T) {
	t.Parallel()
	events, others, views := pgtest.Database(t, filledStore), pgtest.Database(t, filledStore), pgtest.Database(t, nil)
	online(t, apart(t, views, events, viewschema.Options{}))
	_, err := apart(t, views, others, viewschema.Options{}).CatchUp(t.Context())
	if !errors.Is(err, viewschema.ErrChanged) || !strings.Contains(err.Error(), "event database") {
		t.Errorf("%v", err)
	}
}

// The development commands work, too.
func TestReplayAllElsewhere(t *testing.T) {
	t.Parallel()
	events, views := pgtest.Database(t, filledStore), pgtest.Database(t, nil)
	s := apart(t, views, events, viewschema.Options{})
	if _, err := s.CreateTables(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := s.ReplayAll(t.Context())
	if err != nil || r.Rows == 0 {
		t.Fatalf("%+v: %v", r, err)
	}
}

// A query cannot read one database and fill a table of another: that is said before anything is touched.
func TestQueriesWantOneDatabase(t *testing.T) {
	t.Parallel()
	events, views := pgtest.Database(t, filledStore), pgtest.Database(t, nil)
	d := viewschema.Definition{
		Projectors: []*projections.Projector{{
			Name:   "owners",
			Tables: []projections.Table{&projections.SQLTable{Name: "owners", Aggregate: "id", Query: "select aggregate_id as id from %EVENTS% group by 1"}},
		}},
		Versions: projector.Versions{1: {projector.Replay(projector.Named("owners"))}},
		Views:    fstest.MapFS{"owners.sql": {Data: []byte("create table owners%SUFFIX% (id uuid primary key)")}},
	}
	_, err := viewschema.Open(views, d, viewschema.Options{Events: events})
	if !errors.Is(err, viewschema.ErrDefinition) || !strings.Contains(err.Error(), "table owners of projector owners") {
		t.Errorf("%v", err)
	}
	if _, err := viewschema.Open(views, d, viewschema.Options{Events: views}); err != nil {
		t.Error(err)
	}
}
