package viewschema_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// A snapshot that is older than the cutover is refused, whichever version its code is for, and so is one that is taken by
// the guard itself while the guard waits for the cutover to commit. Seen to fail with the row left out of the new guard's
// table (a current snapshot is refused), and with the old guard not dropped (nobody waits).
func TestSnapshotsOlderThanTheCutover(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)

	begin := func() pgx.Tx {
		tx, err := db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
		return tx
	}
	early := map[int]pgx.Tx{1: begin(), 2: begin()}
	for _, tx := range early {
		if _, err := tx.Exec(t.Context(), "select count(*) from events"); err != nil { // takes the snapshot
			t.Fatal(err)
		}
	}
	waiting := make(chan error, 1)
	ctx := pg.WithFault(t.Context(), func(m pg.Moment, p pg.Point) {
		if m == pg.Before && p == pg.PointCutover {
			tx := begin()
			go func() { waiting <- viewschema.Guard(t.Context(), tx, "", 1) }()
			awaitLock(t, db)
		}
	})
	if _, err := s.MigrateOffline(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, viewschema.ErrVersion) {
		t.Errorf("the guard that waited for the cutover: %v", err)
	}
	for version, tx := range early {
		if err := viewschema.Guard(t.Context(), tx, "", version); !errors.Is(err, viewschema.ErrVersion) {
			t.Errorf("version %d in an old snapshot: %v", version, err)
		}
	}
	if err := viewschema.Guard(t.Context(), begin(), "", 2); err != nil {
		t.Errorf("version 2 in a new snapshot: %v", err)
	}
}

// The guard holds the cutover off until the transaction that has passed it ends: in a snapshot of its own it sees and writes
// the old tables to its end. Seen to fail with the old guard not dropped.
func TestGuardedTransactionIsWaitedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	gaveWay := make(chan struct{})
	s := watched(t, db, version2(), viewschema.Options{}, &watcher{before: attempts(func(n int) {
		if n == 2 {
			close(gaveWay)
		}
	})})
	online(t, s)
	tx, err := db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	if err := viewschema.Guard(t.Context(), tx, "", 1); err != nil {
		t.Fatal(err)
	}
	done := cutOver(t, s)
	select {
	case <-gaveWay:
	case err := <-done:
		t.Fatalf("did not wait for the guarded transaction: %v", err)
	}
	if _, err := tx.Exec(t.Context(), "update view_schema.accounts set balance = balance where id = (select min(id::text)::uuid from view_schema.accounts)"); err != nil {
		t.Error(err)
	}
	commit(t, tx)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	verify(t, db, 2)
}

// The guard works through pgx, database/sql and bun, and after the cutover it stops old code before it has written
// anything. Seen to fail with the old guard not dropped.
func TestOldCodeWritesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	sqlDB := stdlib.OpenDBFromPool(db)
	defer sqlDB.Close()
	bunDB := bun.NewDB(sqlDB, pgdialect.New())
	guards := map[string]func(version int) error{
		"pgx": func(version int) error {
			return pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error { return viewschema.Guard(t.Context(), tx, "", version) })
		},
		"sql": func(version int) error {
			tx, err := sqlDB.BeginTx(t.Context(), nil)
			if err != nil {
				return err
			}
			return errors.Join(viewschema.GuardSQL(t.Context(), tx, "", version), tx.Rollback())
		},
		"bun": func(version int) error {
			return bunDB.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
				return viewschema.GuardSQL(ctx, tx, "", version)
			})
		},
	}
	check := func(version int) {
		for name, guard := range guards {
			if err := guard(version); err != nil {
				t.Errorf("%s as version %d: %v", name, version, err)
			}
			if err := guard(3 - version); !errors.Is(err, viewschema.ErrVersion) {
				t.Errorf("%s as version %d: %v", name, 3-version, err)
			}
		}
	}
	check(1)
	s := open(t, db, version2())
	online(t, s)
	offline(t, s)
	check(2)

	old, err := bank.NewRelease(v1.Definition)
	if err != nil {
		t.Fatal(err)
	}
	sets, err := bank.ShareOut(t.Context(), db, 7, 1)
	if err != nil {
		t.Fatal(err)
	}
	customers := sets[0]
	const contents = "select (select count(*) from events) || ' events, accounts ' || (select md5(string_agg(a::text, '' order by id)) from view_schema.accounts a)"
	before := scalar[string](t, db, contents)
	store := &bank.Store{DB: db, Releases: []bank.Release{old}}
	if err := store.Append(t.Context(), customers.Act()...); !errors.Is(err, viewschema.ErrVersion) {
		t.Errorf("the old release appended: %v", err)
	}
	if after := scalar[string](t, db, contents); after != before {
		t.Errorf("the old release has written: %s, and then %s", before, after)
	}
}
