package viewschema_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/viewschema"
)

// watcher sees the statements of a pool and the lines of a log, both in order and as they happen: a test can wait for what
// the cutover does, or do something itself between two of its statements. Either function may be nil.
type watcher struct {
	before func(sql string) // called before each statement; the statement waits for it
	after  func(sql string) // called after each statement
	logged func(line string)

	mu    sync.Mutex
	lines bytes.Buffer
}

func (w *watcher) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if w.before != nil {
		w.before(data.SQL)
	}
	return context.WithValue(ctx, w, data.SQL)
}

func (w *watcher) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if sql, ok := ctx.Value(w).(string); ok && w.after != nil {
		w.after(sql)
	}
}

// Before a batch of statements is sent, it is before each of them.
func (w *watcher) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		if w.before != nil {
			w.before(q.SQL)
		}
	}
	return ctx
}

func (w *watcher) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	if w.after != nil {
		w.after(data.SQL)
	}
}

func (*watcher) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (w *watcher) Write(line []byte) (int, error) {
	w.mu.Lock()
	w.lines.Write(line)
	w.mu.Unlock()
	if w.logged != nil {
		w.logged(string(line))
	}
	return len(line), nil
}

func (w *watcher) log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines.String()
}

// connecting is a pool of the test's own, to the same database with other connections.
func connecting(t *testing.T, db *pgxpool.Pool, change func(*pgx.ConnConfig)) *pgxpool.Pool {
	t.Helper()
	config := db.Config()
	change(config.ConnConfig)
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	return own
}

// watched opens the definition on a pool of its own, whose statements and log go to w.
func watched(t *testing.T, db *pgxpool.Pool, d viewschema.Definition, o viewschema.Options, w *watcher) *viewschema.Schema {
	t.Helper()
	o.Log = zerolog.New(w)
	s, err := viewschema.Open(connecting(t, db, func(c *pgx.ConnConfig) { c.Tracer = w }), d, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// attempts calls back with the number of each try of the cutover's transaction that was rolled back.
func attempts(back func(n int)) func(sql string) {
	n := 0
	return func(sql string) {
		if sql == "rollback" {
			n++
			back(n)
		}
	}
}

// cutOver runs the cutover beside the test.
func cutOver(t *testing.T, s *viewschema.Schema) chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := s.MigrateOffline(t.Context())
		done <- err
	}()
	return done
}

// hold begins a transaction, runs a statement in it and leaves it open. It returns the session's pid and what ends it.
func hold(t *testing.T, db *pgxpool.Pool, sql string) (pid string, end func()) {
	t.Helper()
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	if _, err := tx.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	if err := tx.QueryRow(t.Context(), "select 'pid ' || pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid, func() {
		t.Helper()
		if err := tx.Commit(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// patience ends a wait for what never comes; no test that succeeds depends on it.
const patience = time.Minute

// awaitLock returns when a session waits for a lock.
func awaitLock(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	began := time.Now()
	for !scalar[bool](t, db, "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())") {
		if time.Since(began) > patience {
			t.Fatal("nobody waits for a lock")
		}
	}
}
