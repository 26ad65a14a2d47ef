package viewschema_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// Following goes on until the cutover, and then ends well.
func TestFollowUntilTheCutover(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	passes, followed := make(chan viewschema.Result), make(chan error, 1)
	go func() {
		followed <- s.Follow(t.Context(), time.Millisecond, func(r viewschema.Result) {
			select {
			case passes <- r:
			case <-t.Context().Done():
			}
		})
	}()
	<-passes
	if _, err := db.Exec(t.Context(), openAccount); err != nil {
		t.Fatal(err)
	}
	for r := range passes {
		if r.Events == 1 {
			break
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.MigrateOffline(t.Context())
		done <- err
	}()
	for ended := false; !ended; {
		select {
		case <-passes:
		case err := <-followed:
			if ended = true; err != nil {
				t.Error(err)
			}
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	verify(t, db, 2)
}

// Following ends with an error if the migration is aborted.
func TestFollowEndsWithAnAbort(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	first, followed := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		followed <- s.Follow(t.Context(), time.Millisecond, func(viewschema.Result) {
			select {
			case first <- struct{}{}:
			default:
			}
		})
	}()
	<-first
	if _, err := s.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-followed; !errors.Is(err, viewschema.ErrState) {
		t.Errorf("got %v", err)
	}
}

// Wherever it is aborted, a catch-up says so. Seen to fail with what the driver says of a row that is gone.
func TestCatchUpThatIsAborted(t *testing.T) {
	t.Parallel()
	for _, statement := range []string{".projector_marks (migration_id) values", "select event_tables", "declare projector_events"} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			s := open(t, db, version2())
			online(t, s)
			mustExec(t, db, openAccount)
			var aborted atomic.Bool
			following := watched(t, db, version2(), viewschema.Options{}, &watcher{before: func(sql string) {
				if !strings.Contains(sql, statement) || !aborted.CompareAndSwap(false, true) {
					return
				}
				if _, err := s.Abort(t.Context()); err != nil {
					t.Error(err)
				}
			}})
			if _, err := following.CatchUp(t.Context()); !errors.Is(err, viewschema.ErrState) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Following goes on when it has lost its connections, in a pass or between two.
func TestFollowOutlivesItsConnections(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	followers := pgtest.Pool(t, db.Config().ConnString())
	s := open(t, followers, version2())
	online(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	passes, followed := make(chan viewschema.Result), make(chan error, 1)
	go func() {
		followed <- s.Follow(ctx, time.Millisecond, func(r viewschema.Result) {
			select {
			case passes <- r:
			case <-ctx.Done():
			}
		})
	}()
	const times = 20
	for i := range times + 1 {
		select {
		case <-passes:
		case err := <-followed:
			t.Fatalf("after %d times: %v", i, err)
		}
		if i < times {
			mustExec(t, db, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
		}
	}
	cancel()
	if err := <-followed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Whoever follows hears that a new table was changed before there is an event that does not fit.
func TestCatchUpLooksAtTheTablesFirst(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	mustExec(t, db, "alter table view_schema.accounts_2 drop column iban")
	if _, err := s.CatchUp(t.Context()); err == nil || !strings.Contains(err.Error(), "no column iban") {
		t.Errorf("nothing to do: %v", err)
	}
}
