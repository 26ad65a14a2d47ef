package viewschema_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

const open300 = `
	insert into events (aggregate_id, sequence_number, event_type, data)
	select gen_random_uuid(), 1, 'AccountOpened', format('{"owner_name": "Late", "iban": "%s", "currency": "EUR", "branch": "Gent"}', gen_random_uuid())::jsonb
	from generate_series(1, 300)`

// What is left after some catch-ups and could not be applied within the pause is not tried: the cutover is refused and says
// what to do. Here, new events come after each catch-up. Seen to fail (it cuts over) with the comparison taken out.
func TestTailLargerThanTheBudget(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s, err := viewschema.Open(db, version2(), viewschema.Options{PauseBudget: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	online(t, s)
	before := dump(t, db)
	ctx := pg.WithFault(t.Context(), func(m pg.Moment, p pg.Point) {
		if m == pg.After && p == pg.PointCut {
			mustExec(t, db, open300)
		}
	})
	_, err = s.MigrateOffline(ctx)
	if !errors.Is(err, viewschema.ErrRefused) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"300 new events", "slow the writers down", "--pause-budget"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
	if after := dump(t, db); after != before {
		t.Errorf("the schema has changed:\n%s", after)
	}
	offline(t, open(t, db, version2()))
	verify(t, db, 2)
}

// asReader is a pool whose role may read events and has a view schema of its own, at version 1, but may not lock the events.
func asReader(t *testing.T) (db, reader *pgxpool.Pool) {
	t.Helper()
	db = pgtest.Database(t, filledStore)
	role := "reader_" + strings.ToLower(rand.Text())
	mustExec(t, db, "create role "+role+"; create schema view_schema authorization "+role+"; grant select on all tables in schema public to "+role+
		"; grant select, usage on all sequences in schema public to "+role)
	t.Cleanup(func() {
		if _, err := db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+" cascade; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	config := db.Config()
	config.ConnConfig.RuntimeParams["role"] = role
	reader, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	s, err := viewschema.Open(reader, v1.Definition, viewschema.Options{Maintenance: true})
	if err != nil {
		t.Fatal(err)
	}
	online(t, s)
	offline(t, s)
	return db, reader
}

// A role that may not lock the event table has to be told that nobody writes, and looks. Seen to fail with the last look
// before the commit taken out (an event is lost), and with the look at the writers taken out (it does not wait for them).
func TestMaintenance(t *testing.T) {
	t.Parallel()
	db, reader := asReader(t)
	online(t, open(t, reader, version2()))
	before := dump(t, db)
	unchanged := func() {
		t.Helper()
		if after := dump(t, db); after != before {
			t.Errorf("the schema has changed:\n%s", after)
		}
	}

	_, err := open(t, reader, version2()).MigrateOffline(t.Context())
	if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "grant") || !strings.Contains(err.Error(), "--maintenance") {
		t.Errorf("without the right: %v", err)
	}
	unchanged()

	pid, end := hold(t, db, openAccount)
	o := viewschema.Options{Maintenance: true, LockWait: time.Millisecond}
	_, err = watched(t, reader, version2(), o, &watcher{}).MigrateOffline(t.Context())
	if !errors.Is(err, viewschema.ErrLockWait) || !strings.Contains(err.Error(), pid+" ") {
		t.Errorf("with an open writer, want %s named, got %v", pid, err)
	}
	unchanged()
	end()

	o.LockWait = 0
	append1 := sync.OnceFunc(func() { mustExec(t, db, openAccount) })
	w := &watcher{before: func(sql string) { // after the last events were applied
		if strings.Contains(sql, "; lock table ") {
			append1()
		}
	}}
	_, err = watched(t, reader, version2(), o, w).MigrateOffline(t.Context())
	if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "1 events were appended") {
		t.Errorf("with an event during the cutover: %v", err)
	}
	unchanged()

	offline(t, watched(t, reader, version2(), o, &watcher{}))
	verify(t, db, 2)
}
