package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pglocal"
)

// settings are those of a small server that is set up with care. Without autovacuum, which would fall on one run and not on
// the next; every data set is vacuumed when it is made.
var settings = map[string]string{
	"shared_buffers":       "1GB",
	"effective_cache_size": "4GB",
	"maintenance_work_mem": "256MB",
	"work_mem":             "16MB",
	"max_wal_size":         "8GB",
	"checkpoint_timeout":   "15min",
	"wal_level":            "replica",
	"autovacuum":           "off",
}

// bench is a run of the benchmark.
type bench struct {
	options
	start  func(ctx context.Context) (*pglocal.Server, error)
	server *pglocal.Server
	made   map[string]bool     // databases
	pairs  map[int]*comparison // by events
	tails  *tails
	ten    *tenfold
	report report
	stderr io.Writer
	began  time.Time
}

// measure starts the server, measures the rows, and prints the report.
func measure(ctx context.Context, o options, env func(string) string, stdout, stderr io.Writer) (err error) {
	b := &bench{options: o, made: map[string]bool{}, pairs: map[int]*comparison{}, stderr: stderr, began: time.Now()}
	binaries, err := pglocal.Find(env)
	if err != nil {
		return err
	}
	b.say("starting a private PostgreSQL %s", binaries.Version)
	b.start = func(ctx context.Context) (*pglocal.Server, error) {
		return pglocal.Start(ctx, binaries, pglocal.Options{Durable: true, Settings: settings, TempDir: env("TMPDIR")})
	}
	if b.server, err = b.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Stop()) }()
	b.report = report{
		PostgreSQL: binaries.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(),
		Workers: o.workers, Repeat: o.repeat, Flags: o.flags, Settings: settings, Began: b.began.UTC().Truncate(time.Second),
	}
	for _, m := range measurements {
		if !o.wants(m.row) {
			continue
		}
		if err := m.measure(b, ctx); err != nil {
			return fmt.Errorf("row %d: %w", m.row, err)
		}
	}
	return b.publish(stdout)
}

func (b *bench) publish(stdout io.Writer) error {
	if b.events != boundedEvents {
		b.report.unbounded()
	}
	b.report.Took = time.Since(b.began).Round(time.Second).Seconds()
	if err := b.report.markdown(stdout); err != nil || b.json == "" {
		return err
	}
	text, err := json.MarshalIndent(b.report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.json, append(text, '\n'), 0o644)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.stderr, "[%6.1fs] %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// with opens a session for as long as fn runs: a database with a session cannot be copied.
func (b *bench) with(ctx context.Context, database string, fn func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, b.server.URL(database))
	if err != nil {
		return err
	}
	return errors.Join(fn(conn), conn.Close(context.WithoutCancel(ctx)))
}

// exec runs SQL, one script after the other.
func (b *bench) exec(ctx context.Context, database string, scripts ...string) error {
	return b.with(ctx, database, func(conn *pgx.Conn) error {
		for _, sql := range scripts {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

// query reads one value.
func query[T any](ctx context.Context, b *bench, database, sql string, args ...any) (value T, err error) {
	err = b.with(ctx, database, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, sql, args...).Scan(&value) })
	if err != nil {
		return value, fmt.Errorf("%s: %w", sql, err)
	}
	return value, nil
}
