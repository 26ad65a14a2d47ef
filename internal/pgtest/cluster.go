package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pglocal"
)

// cluster is the one server of a test binary.
type cluster struct {
	once     sync.Once
	err      error // of the start
	server   *pglocal.Server
	admin    *pgxpool.Pool
	strategy string // clause of create database

	lastName  atomic.Int64
	mu        sync.Mutex
	templates map[unsafe.Pointer]*template
}

// template is a database that a setup function has filled.
type template struct {
	once  sync.Once
	err   error
	name  string
	setup Setup // held, so that no other closure gets its address
}

func (c *cluster) start() error {
	c.once.Do(func() { c.err = c.open(context.Background()) }) // it outlives the test that happens to be the first
	return c.err
}

func (c *cluster) open(ctx context.Context) error {
	var err error
	c.server, err = pglocal.Open(ctx, os.Getenv, pglocal.Options{Settings: map[string]string{
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
	if err := c.admin.QueryRow(ctx, `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return fmt.Errorf("connect to the tests' server: %w", err)
	}
	if version >= 150000 {
		c.strategy = " strategy file_copy" // the default writes every page to the WAL
	}
	c.templates = map[unsafe.Pointer]*template{}
	return nil
}

// close drops the templates and stops the server, if it is ours.
func (c *cluster) close() error {
	if c.server == nil {
		return nil
	}
	var errs []error
	if !c.server.Private() {
		for _, t := range c.templates {
			errs = append(errs, c.drop(context.Background(), t.name))
		}
	}
	if c.admin != nil {
		c.admin.Close()
	}
	return errors.Join(append(errs, c.server.Stop())...)
}

// create makes a database from the template of the setup function.
func (c *cluster) create(ctx context.Context, setup Setup) (string, error) {
	if err := c.start(); err != nil {
		return "", err
	}
	from := "template0"
	if setup != nil {
		t := c.template(setup)
		t.once.Do(func() { t.err = c.fill(context.WithoutCancel(ctx), t) })
		if t.err != nil {
			return "", t.err
		}
		from = t.name
	}
	name := c.newName()
	return name, c.copy(ctx, name, from)
}

func (c *cluster) template(setup Setup) *template {
	// A function value is a pointer to code and captured variables: equal for every use of one top-level function.
	key := *(*unsafe.Pointer)(unsafe.Pointer(&setup))
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.templates[key]
	if t == nil {
		t = &template{name: c.newName(), setup: setup}
		c.templates[key] = t
	}
	return t
}

// binaryName tells the databases of test binaries apart that share a server.
var binaryName = strings.ToLower(rand.Text()[:12])

func (c *cluster) newName() string {
	return fmt.Sprintf("pgtest_%s_%d", binaryName, c.lastName.Add(1))
}

func (c *cluster) fill(ctx context.Context, t *template) error {
	if err := c.copy(ctx, t.name, "template0"); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, c.server.URL(t.name))
	if err != nil {
		return err
	}
	if err := t.setup(ctx, conn); err != nil {
		return errors.Join(fmt.Errorf("setup: %w", err), conn.Close(ctx))
	}
	return conn.Close(ctx) // a template with a session cannot be copied
}

func (c *cluster) copy(ctx context.Context, name, from string) error {
	_, err := c.admin.Exec(ctx, "create database "+name+" template "+from+c.strategy)
	return err
}

func (c *cluster) drop(ctx context.Context, name string) error {
	_, err := c.admin.Exec(ctx, "drop database if exists "+name+" with (force)")
	return err
}
