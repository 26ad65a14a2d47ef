package pgtest

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Setup fills a new database.
type Setup = func(ctx context.Context, conn *pgx.Conn) error

const (
	maxConns       = 16 // of one test's pool
	cleanupTimeout = 30 * time.Second
)

var (
	shared  cluster
	running atomic.Bool
)

// Main runs the tests, ends their cluster and exits with the tests' exit code.
func Main(m *testing.M) {
	running.Store(true)
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
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
	config, err := pgxpool.ParseConfig(DatabaseURL(t, setup))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = maxConns
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	return pool
}

// DatabaseURL is [Database] for a test that makes its own connections.
func DatabaseURL(t testing.TB, setup Setup) string {
	t.Helper()
	if !running.Load() {
		t.Fatal("this test package needs: func TestMain(m *testing.M) { pgtest.Main(m) }")
	}
	name, err := shared.create(t.Context(), setup)
	if err != nil {
		t.Fatalf("make a database for this test: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), cleanupTimeout)
		defer cancel()
		if err := shared.drop(ctx, name); err != nil {
			t.Errorf("drop this test's database: %v", err)
		}
	})
	return shared.server.URL(name)
}

// closePool does not wait for ever for a connection that the test has not given back.
func closePool(t testing.TB, pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(cleanupTimeout):
		t.Errorf("the test ended without giving back %d connections of its pool", pool.Stat().AcquiredConns())
	}
}
