package viewschema_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// loops runs n functions again and again until stop is called or one fails. done counts how often each has succeeded.
func loops(t *testing.T, n int, step func(ctx context.Context, i int) error) (done []atomic.Int64, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done = make([]atomic.Int64, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			for ctx.Err() == nil {
				if err := step(context.WithoutCancel(ctx), i); err != nil { // a step is short and ends as a whole
					t.Errorf("loop %d: %v", i, err)
					return
				}
				done[i].Add(1)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wait.Wait() })
	t.Cleanup(stop)
	return done, stop
}

// viewsFirst is a step of an application that writes a view table before the event. Unless it is guarded, it can be in a
// deadlock with the cutover, which locks the events first.
func viewsFirst(ctx context.Context, db *pgxpool.Pool, account string, guarded bool) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if guarded {
			if err := viewschema.Guard(ctx, tx, "", 1); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "update view_schema.accounts set owner = 'N.N.' where id = $1", account); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			insert into events (aggregate_id, sequence_number, event_type, data)
			select $1, max(sequence_number) + 1, 'AccountRenamed', '{"owner_name": "N.N."}' from events where aggregate_id = $1`, account)
		return err
	})
}

func someAccounts(t *testing.T, db *pgxpool.Pool, n int) []string {
	t.Helper()
	return scalar[[]string](t, db, "select array(select id::text from view_schema.accounts order by id limit $1)", n)
}

// The cutover gives up before PostgreSQL would look for a deadlock and choose the application as its victim. A few of its
// tries are let fail; then the application pauses, and the cutover succeeds. Seen to fail (40P01 in a writer) with the time
// for view locks unbounded.
func TestViewsBeforeEventsIsNoDeadlock(t *testing.T) {
	t.Parallel()
	for name, budget := range map[string]time.Duration{"usual budget": 0, "largest budget": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			enough := make(chan struct{})
			s := watched(t, db, version2(), viewschema.Options{PauseBudget: budget}, &watcher{before: attempts(func(n int) {
				if n == 4 {
					close(enough)
				}
			})})
			online(t, s)
			accounts := someAccounts(t, db, 4)
			done, stop := loops(t, 4, func(ctx context.Context, i int) error { return viewsFirst(ctx, db, accounts[i], false) })
			cut := cutOver(t, s)
			select {
			case <-enough:
			case err := <-cut:
				t.Logf("cut over between two transactions: %v", err)
				cut <- err
			}
			stop()
			if err := <-cut; err != nil {
				t.Fatal(err)
			}
			for i := range done {
				t.Logf("writer %d: %d transactions", i, done[i].Load())
			}
		})
	}
}

// With the guard, the same application and the cutover take their locks in the same order, and it succeeds under load.
// Seen to fail (it never gets its locks, until too much is left) with the guard dropped last in the cutover.
func TestGuardedViewsBeforeEvents(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	accounts := someAccounts(t, db, 4)
	_, stop := loops(t, 4, func(ctx context.Context, i int) error {
		err := viewsFirst(ctx, db, accounts[i], true)
		if errors.Is(err, viewschema.ErrVersion) { // after the cutover
			return nil
		}
		return err
	})
	offline(t, s)
	stop()
	verify(t, db, 2)
}

// Autovacuum of the event table does not give way to a cutover that asks for 80 ms: it is waited out, and named. Seen to
// fail with ShareUpdateExclusiveLock left out of what blocks the cutover (it is not named), and with the time-out of the
// lock treated as an error like any other (it is not waited out).
func TestVacuumIsWaitedOut(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	online(t, open(t, db, version2()))
	pid, end := hold(t, db, "lock table events in share update exclusive mode") // as VACUUM and ANALYZE do
	before := dump(t, db)

	hasty := watched(t, db, version2(), viewschema.Options{LockWait: time.Millisecond}, &watcher{})
	_, err := hasty.MigrateOffline(t.Context())
	if !errors.Is(err, viewschema.ErrLockWait) || !strings.Contains(err.Error(), pid+" ") {
		t.Errorf("want %s named, got %v", pid, err)
	}
	if after := dump(t, db); after != before {
		t.Errorf("the schema has changed:\n%s", after)
	}

	gaveWay := make(chan struct{}, 100)
	w := &watcher{before: attempts(func(int) { gaveWay <- struct{}{} })}
	done := cutOver(t, watched(t, db, version2(), viewschema.Options{}, w))
	for range 3 {
		select {
		case <-gaveWay:
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		}
	}
	if !strings.Contains(w.log(), pid+" ") {
		t.Errorf("%s is not named in the log:\n%s", pid, w.log())
	}
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	verify(t, db, 2)
}

// Readers whose transactions overlap, so that the table is never free, are no obstacle: those who come later queue behind
// the cutover for the little while that the others take to end. Seen to fail (ErrLockWait) with a lock time-out of 1 ms.
func TestOverlappingReaders(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := watched(t, db, version2(), viewschema.Options{LockWait: 20 * time.Second}, &watcher{})
	online(t, s)
	reads, stop := loops(t, 8, func(ctx context.Context, _ int) error {
		_, err := db.Exec(ctx, "begin; select count(*) from view_schema.accounts; select pg_sleep(0.02); commit", pgx.QueryExecModeSimpleProtocol)
		return err
	})
	for i := range reads {
		awaitCount(t, &reads[i], 1)
	}
	offline(t, s)
	stop()
	verify(t, db, 2)
}

// awaitCount returns when the counter has come so far.
func awaitCount(t *testing.T, counter *atomic.Int64, n int64) {
	t.Helper()
	began := time.Now()
	for tick := time.NewTicker(time.Millisecond); counter.Load() < n; <-tick.C {
		if t.Failed() {
			t.FailNow()
		}
		if time.Since(began) > patience {
			t.Fatalf("came to %d and not to %d", counter.Load(), n)
		}
	}
}

// A reader that does not end keeps the cutover from its lock, and nobody else from anything: while it is there and the
// cutover tries again and again, other readers and writers go on. Seen to fail with no time-out for the view locks, and with
// the time for all of them unbounded (the writers do not go on).
func TestLongReader(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	var tries atomic.Int64
	w := &watcher{before: attempts(func(int) { tries.Add(1) })}
	s := watched(t, db, version2(), viewschema.Options{}, w)
	online(t, s)
	pid, end := hold(t, db, "select count(*) from view_schema.accounts")
	before := dump(t, db)
	hasty := watched(t, db, version2(), viewschema.Options{LockWait: time.Millisecond}, &watcher{})
	_, err := hasty.MigrateOffline(t.Context())
	if !errors.Is(err, viewschema.ErrLockWait) || !strings.Contains(err.Error(), pid+" ") {
		t.Errorf("want %s named, got %v", pid, err)
	}
	if after := dump(t, db); after != before {
		t.Errorf("the schema has changed:\n%s", after)
	}

	reads, stopReaders := loops(t, 2, func(ctx context.Context, _ int) error {
		_, err := db.Exec(ctx, "select count(*) from view_schema.accounts")
		return err
	})
	writes, stopWriters := loops(t, 2, steadily(t, db, 2, v1.Definition, version2()))
	done := cutOver(t, s)
	awaitCount(t, &tries, 1)
	for range 3 { // after each of some tries that failed, all others get something done before the reader ends
		was := tries.Load()
		for i := range 2 {
			awaitCount(t, &reads[i], reads[i].Load()+1)
			awaitCount(t, &writes[i], writes[i].Load()+1)
		}
		awaitCount(t, &tries, was+1)
	}
	if !strings.Contains(w.log(), pid+" ") {
		t.Errorf("%s is not named in the log:\n%s", pid, w.log())
	}
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	stopReaders()
	stopWriters()
	verify(t, db, 2)
}

// steadily returns a step of n bank's writers.
func steadily(t *testing.T, db *pgxpool.Pool, n int, releases ...viewschema.Definition) func(ctx context.Context, i int) error {
	t.Helper()
	customers, err := bank.ShareOut(t.Context(), db, rand.Uint64(), n)
	if err != nil {
		t.Fatal(err)
	}
	stores := make([]*bank.Store, n)
	for i := range n {
		stores[i] = &bank.Store{DB: db}
		for _, d := range releases {
			r, err := bank.NewRelease(d)
			if err != nil {
				t.Fatal(err)
			}
			stores[i].Releases = append(stores[i].Releases, r)
		}
	}
	return func(ctx context.Context, i int) error { return stores[i].Append(ctx, customers[i].Act()...) }
}
