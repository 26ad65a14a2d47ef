package pgtest

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pgcluster"
)

// Setup fills a new database.
type Setup = func(ctx context.Context, conn *pgx.Conn) error

var (
	shared  templates
	cluster atomic.Pointer[pgcluster.Cluster] // nil until the first test asks for a database
	running atomic.Bool
)

// Main runs the tests, ends their cluster and exits with the tests' exit code.
func Main(m *testing.M) {
	running.Store(true)
	code := m.Run()
	if c := cluster.Load(); c != nil {
		if err := shared.close(c); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// Database makes a database for this test and drops it when the test ends. A setup function runs once per test binary;
// its result is copied for every test that names the same function. A closure that captures variables is a new function
// each time it is made. Without a setup the database is empty.
//
// A test that starts another program gives it pool.Config().ConnString(), or takes [DatabaseURL] instead.
func Database(t testing.TB, setup Setup) *pgxpool.Pool {
	t.Helper()
	c, name := create(t, setup)
	pool, err := c.Pool(t, name)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

// DatabaseURL is [Database] for a test that makes its own connections.
func DatabaseURL(t testing.TB, setup Setup) string {
	t.Helper()
	c, name := create(t, setup)
	return c.URL(name)
}

func create(t testing.TB, setup Setup) (*pgcluster.Cluster, string) {
	t.Helper()
	if !running.Load() {
		t.Fatal("this test package needs: func TestMain(m *testing.M) { pgtest.Main(m) }")
	}
	c, err := pgcluster.Shared()
	if err != nil {
		t.Fatal(err)
	}
	cluster.Store(c)
	name, err := shared.create(t.Context(), c, setup)
	if err != nil {
		t.Fatalf("make a database for this test: %v", err)
	}
	c.DropAfter(t, name)
	return c, name
}
