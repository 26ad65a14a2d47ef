package pgtest_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var setups atomic.Int32

func oneAccount(ctx context.Context, conn *pgx.Conn) error {
	setups.Add(1)
	_, err := conn.Exec(ctx, `create table accounts (id int primary key); insert into accounts values (1)`)
	return err
}

func TestDatabasesOfOneSetupAreSeparate(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Database(t, oneAccount)
			if _, err := pool.Exec(t.Context(), `insert into accounts values (2)`); err != nil {
				t.Fatal(err)
			}
			var n int
			if err := pool.QueryRow(t.Context(), `select count(*) from accounts`).Scan(&n); err != nil || n != 2 {
				t.Fatalf("got %d accounts, %v; want 2", n, err)
			}
			if n := setups.Load(); n != 1 {
				t.Errorf("the setup ran %d times, want once", n)
			}
		})
	}
}

func TestClosuresDoNotShareATemplate(t *testing.T) {
	t.Parallel()
	for i := range 3 {
		setup := func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, fmt.Sprintf(`create table t%d ()`, i))
			return err
		}
		pool := pgtest.Database(t, setup)
		var name string
		if err := pool.QueryRow(t.Context(), `select string_agg(tablename, ',') from pg_tables where schemaname = 'public'`).
			Scan(&name); err != nil || name != fmt.Sprintf("t%d", i) {
			t.Errorf("got tables %q, %v; want t%d", name, err, i)
		}
	}
}

func TestWithoutSetupTheDatabaseIsEmpty(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), pgtest.DatabaseURL(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var n int
	if err := conn.QueryRow(t.Context(), `select count(*) from pg_tables where schemaname = 'public'`).Scan(&n); err != nil || n != 0 {
		t.Errorf("got %d tables, %v; want none", n, err)
	}
}

func BenchmarkDatabase(b *testing.B) {
	pgtest.DatabaseURL(b, oneAccount) // starts the cluster and makes the template
	for b.Loop() {
		pgtest.DatabaseURL(b, oneAccount)
	}
}
