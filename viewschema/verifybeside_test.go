package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// While writers append and project at full speed, and catch-ups run beside it without a pause, tables that hold the same differ in
// nothing: rows, totals, and what is made in the order of the store. Seen to fail in READ COMMITTED.
func TestVerifyWhileWritersAppend(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion3)
	d := again()
	s := open(t, db, d)
	online(t, s)
	stop := writers(t, db, 3, 1, bank.Definition)
	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() { followed <- open(t, db, d).Follow(ctx, time.Nanosecond, func(viewschema.Result) {}) }()
	for range 5 {
		v, err := s.Verify(t.Context())
		if err != nil {
			t.Error(err)
			break
		}
		if len(v.Tables) != 4 || !v.Same() {
			t.Errorf("%+v", v.Tables)
		}
		for _, c := range v.Tables {
			if c.BuiltRows == 0 || c.BuiltRows != c.LiveRows || len(c.Key) == 0 {
				t.Errorf("%s was not compared: %+v", c.Table, c)
			}
		}
	}
	for i, w := range stop() {
		if w.Events == 0 {
			t.Errorf("writer %d has written nothing", i)
		}
	}
	cancel()
	if err := <-followed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	offline(t, s)
	verify(t, db, 3)
}

// The snapshot is taken when no group is in flight: one that was would have recorded events that the snapshot lacks, and beside
// catch-ups without a pause there is always one. Seen to fail with the snapshot taken before the lock.
func TestVerifyWaitsForWork(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion3)
	store, customers := liveStore(t, db, bank.Definition)
	online(t, open(t, db, again()))
	caughtUp, inFlight := make(chan error, 1), make(chan struct{})
	hold := sync.OnceFunc(func() {
		close(inFlight)
		awaitLock(t, db)
	})
	ctx := pg.WithFault(t.Context(), func(m pg.Moment, p pg.Point) {
		if m == pg.Before && p == pg.PointGroup {
			hold()
		}
	})
	begin := sync.OnceFunc(func() {
		if err := store.Append(t.Context(), customers.Act()...); err != nil {
			t.Error(err)
		}
		go func() {
			_, err := open(t, db, again()).CatchUp(ctx)
			caughtUp <- err
		}()
		<-inFlight
	})
	var snapshots atomic.Int32
	w := &watcher{before: func(sql string) {
		if strings.HasPrefix(sql, "begin isolation level repeatable read") && snapshots.Add(1) == 2 { // the first is its own catch-up's
			begin()
		}
	}}
	v, err := watched(t, db, again(), viewschema.Options{}, w).Verify(t.Context())
	if err != nil || !v.Same() || strings.Contains(w.log(), "trying the transaction again") {
		t.Errorf("%+v, %v\n%s", v, err, w.log())
	}
	if err := <-caughtUp; err != nil {
		t.Error(err)
	}
}

// The tables that a rollback brings back are compared with those that it takes away. What works for a migration waits for a
// verification, and cutover and status tell for whom.
func TestVerifyRollback(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	offline(t, s)
	old := []string{"accounts.iban", "accounts.currency", "accounts.branch", "accounts.version", "accounts.opened_at"}
	if _, err := expecting(t, db, v1.Definition, old...).Verify(t.Context()); !errors.Is(err, viewschema.ErrBelowCurrent) {
		t.Errorf("without a migration: %v", err)
	}
	looking, look := make(chan struct{}), make(chan struct{})
	now := sync.OnceFunc(func() { close(looking) })
	o := viewschema.Options{Expect: old}
	verifier := watched(t, db, v1.Definition, o, &watcher{before: func(sql string) {
		if strings.Contains(sql, "hashtextextended") {
			now()
			<-look
		}
	}})
	verified := make(chan error, 1)
	tries, owned := 0, false
	back := watched(t, db, v1.Definition, viewschema.Options{LockWait: time.Millisecond}, &watcher{before: func(sql string) {
		if strings.Contains(sql, "select state, cut") && strings.HasSuffix(sql, "for update") {
			if tries++; tries == 2 { // the first is the catch-up's
				go func() {
					v, err := verifier.Verify(t.Context())
					if err == nil && (!v.Same() || !v.Rollback || len(v.Tables) != 1 || v.Tables[0].BuiltRows == 0) {
						err = fmt.Errorf("%+v", v)
					}
					verified <- err
				}()
				select {
				case <-looking:
					owned = true
				case <-time.After(patience):
				}
			}
		}
	}})
	_, err := back.Rollback(t.Context())
	if !owned || !errors.Is(err, viewschema.ErrLockWait) || !strings.Contains(err.Error(), "in the way: pid ") {
		t.Errorf("the cutover: %v", err)
	}
	if st, err := back.Status(t.Context()); err != nil || len(st.Migration.Workers) != 1 || st.Migration.Workers[0].Doing != "verify" {
		t.Errorf("status: %+v, %v", st.Migration, err)
	}
	close(look)
	if err := <-verified; err != nil {
		t.Error(err)
	}
	if _, err := open(t, db, version2()).Verify(t.Context()); !errors.Is(err, viewschema.ErrOtherMigration) {
		t.Errorf("with the definition of another version: %v", err)
	}
	if _, err := back.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	verify(t, db, 1)
}
