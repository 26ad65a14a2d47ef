// Package pgcluster makes databases for tests, on the one PostgreSQL that a test binary uses: the server that DATABASE_URL
// names, or a private one, which is started when the first test asks for a database and ends with the process. It is for
// tests only; internal/pgtest and projections/projectiontest are made of it.
//
// On a server that is not ours, databases are told by their names: projectiontest_<process>_<number> is one test's and is
// dropped with it, or, if its process was killed, when the next one starts; projectiontest_<hash> is a template that stays,
// see Template.
package pgcluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pglocal"
)

const (
	prefix   = "projectiontest_"
	maxConns = 16 // of one test's pool

	cleanupTimeout = 30 * time.Second
	makeTimeout    = time.Minute // for a template, and for another process to make it
)

// Cluster is the server of this process. It is safe for concurrent use.
type Cluster struct {
	server   *pglocal.Server
	admin    *pgxpool.Pool
	present  *pgx.Conn // says to other processes that this one is alive
	process  string    // tells the databases of processes apart that share a server
	strategy string    // clause of create database
	last     atomic.Int64
	claimed  sync.Map // of templates' names
}

// Shared returns the server of this process and starts it if it is the first call.
var Shared = sync.OnceValues(func() (*Cluster, error) {
	return open(context.Background(), os.Getenv) // it outlives the test that happens to be the first
})

func open(ctx context.Context, env func(string) string) (*Cluster, error) {
	c := &Cluster{process: strings.ToLower(rand.Text()[:12])}
	if err := c.open(ctx, env); err != nil {
		return nil, fmt.Errorf("the tests' PostgreSQL: %w", errors.Join(err, c.Close()))
	}
	return c, nil
}

func (c *Cluster) open(ctx context.Context, env func(string) string) error {
	var err error
	c.server, err = pglocal.Open(ctx, env, pglocal.Options{Unattended: true, Settings: map[string]string{
		"max_connections":           "200",
		"max_prepared_transactions": "20",
	}})
	if err != nil {
		return err
	}
	if c.admin, err = pgxpool.New(ctx, c.server.URL("")); err != nil {
		return err
	}
	var version int
	if err := c.admin.QueryRow(ctx, "select current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version >= 150000 {
		c.strategy = " strategy file_copy" // the default writes every page to the WAL
	}
	if c.server.Private() {
		return nil
	}
	config := c.admin.Config().ConnConfig
	config.RuntimeParams["application_name"] = prefix + c.process
	if c.present, err = pgx.ConnectConfig(ctx, config); err != nil {
		return err
	}
	return c.sweep(ctx)
}

// alive is a condition that a process is: $1 is its name or an expression for it.
const alive = `exists (select from pg_catalog.pg_stat_activity where application_name = '` + prefix + `' || %s)`

// sweep drops what tests of killed processes have left, unless somebody is connected to it.
func (c *Cluster) sweep(ctx context.Context) error {
	rows, err := c.admin.Query(ctx, `
		select d.datname::text
		from pg_catalog.pg_database d
		where d.datname ~ '^`+prefix+`[a-z2-7]{12}_[0-9]+$' and pg_catalog.pg_has_role(d.datdba, 'usage')
		  and not `+fmt.Sprintf(alive, "split_part(d.datname, '_', 2)"))
	if err != nil {
		return err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range left {
		_, _ = c.admin.Exec(ctx, "drop database if exists "+name) // another process may be faster
	}
	return err
}

// Close stops the server if it is ours. Without it, that happens when the process ends.
func (c *Cluster) Close() error {
	if c.admin != nil {
		c.admin.Close()
	}
	var err error
	if c.present != nil {
		err = c.present.Close(context.Background())
	}
	if c.server != nil {
		err = errors.Join(err, c.server.Stop())
	}
	return err
}

// Private says whether the server is ours.
func (c *Cluster) Private() bool { return c.server.Private() }

// URL is the connection string of a database.
func (c *Cluster) URL(name string) string { return c.server.URL(name) }

// Create makes a database out of another one, to which nobody is connected, or, if from is empty, an empty one.
func (c *Cluster) Create(ctx context.Context, from string) (name string, err error) {
	name = fmt.Sprintf("%s%s_%d", prefix, c.process, c.last.Add(1))
	return name, c.copy(ctx, name, from)
}

func (c *Cluster) copy(ctx context.Context, name, from string) error {
	if from == "" {
		from = "template0"
	}
	_, err := c.admin.Exec(ctx, "create database "+name+" template "+from+c.strategy)
	return err
}

// Fill runs setup on a connection to the database, and closes it.
func (c *Cluster) Fill(ctx context.Context, name string, setup func(ctx context.Context, conn *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, c.URL(name))
	if err != nil {
		return err
	}
	if err := setup(ctx, conn); err != nil {
		return errors.Join(fmt.Errorf("setup: %w", err), conn.Close(ctx))
	}
	return conn.Close(ctx) // a template with a session cannot be copied
}

// Drop drops a database, with whoever is connected to it.
func (c *Cluster) Drop(ctx context.Context, name string) error {
	_, err := c.admin.Exec(ctx, "drop database if exists "+name+" with (force)")
	return err
}

// test is what is needed of a testing.TB. The package that imports this one has it at hand, and this one need not import
// testing.
type test interface {
	Helper()
	Context() context.Context
	Cleanup(fn func())
	Errorf(format string, args ...any)
}

// DropAfter drops the database when the test ends.
func (c *Cluster) DropAfter(t test, name string) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), cleanupTimeout)
		defer cancel()
		if err := c.Drop(ctx, name); err != nil {
			t.Errorf("drop this test's database: %v", err)
		}
	})
}

// Pool connects a test to a database. When the test ends, it closes the pool, and does not wait for ever for a connection that
// the test has not given back.
func (c *Cluster) Pool(t test, name string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(c.URL(name))
	if err != nil {
		return nil, err
	}
	config.MaxConns = maxConns
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
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
	})
	return pool, nil
}
