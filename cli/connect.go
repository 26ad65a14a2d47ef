package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	urfave "github.com/urfave/cli/v2"
)

// Each worker has a connection to read events and one to store rows; the spare ones are for what goes on beside: progress,
// the step itself, and what the page shows.
const (
	workerConnections = 2
	spareConnections  = 4
)

// pool makes the pool of connections; it does not connect yet.
func (p *program) pool(c *urfave.Context, workers int) (*pgxpool.Pool, error) {
	url, from := c.String("database-url"), "--database-url"
	if url == "" {
		url, from = p.getenv("DATABASE_URL"), "DATABASE_URL"
	}
	if url == "" {
		from = "the PG… variables"
		if !p.libpq() {
			return nil, usagef("which database? set DATABASE_URL, or type: %s --database-url postgres://user@host:5432/database %s",
				p.name, p.path(c))
		}
	}
	return newPool(c.Context, url, from, workers)
}

// eventsPool makes that of the database of the events, if they are in another one; else it is nil.
func (p *program) eventsPool(c *urfave.Context, workers int) (*pgxpool.Pool, error) {
	if url := c.String("events-url"); url != "" {
		return newPool(c.Context, url, "--events-url", workers)
	}
	return nil, nil
}

func newPool(ctx context.Context, url, from string, workers int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, badURL(from, err)
	}
	config.MaxConns = int32(workerConnections*workers + spareConnections)
	if err := dial(config.ConnConfig); err != nil {
		return nil, usagef("%s: %v", from, err)
	}
	if params := config.ConnConfig.RuntimeParams; params["application_name"] == "" {
		params["application_name"] = "projector"
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// libpq says whether the environment names a database in the way of libpq.
func (p *program) libpq() bool {
	for _, name := range []string{"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"} {
		if p.getenv(name) != "" {
			return true
		}
	}
	return false
}

// badURL leaves out what pgx says about the text: a malformed one can have the password anywhere in it.
func badURL(from string, err error) error {
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return usagef("%s names a file that cannot be read: %v", from, file)
	}
	return usagef("%s cannot be understood; write postgres://user:password@host:5432/database, and special characters of the password as %%23", from)
}

func ping(ctx context.Context, pool *pgxpool.Pool) error {
	err := pool.Ping(ctx)
	if err == nil {
		return nil
	}
	c := pool.Config().ConnConfig
	hosts := addresses(&c.Config)
	return &connectError{fmt.Sprintf("connecting to database %s at %s as %s: %s", c.Database, strings.Join(hosts, ", "), c.User, whyNot(err, hosts)), err}
}

// addresses lists where the server may be. pgx has an attempt for each, and one more without TLS if that may be left out.
func addresses(c *pgconn.Config) []string {
	list := []string{fmt.Sprintf("%s:%d", c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if address := fmt.Sprintf("%s:%d", f.Host, f.Port); !slices.Contains(list, address) {
			list = append(list, address)
		}
	}
	return list
}

// whyNot picks one reason from those that pgx has, one for each attempt: what the server said, or else the last. With
// several hosts it keeps the address that pgx has put before it.
func whyNot(err error, hosts []string) string {
	if said, ok := errors.AsType[*pgconn.PgError](err); ok {
		return said.Error()
	}
	if failed, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		err = failed.Unwrap()
	}
	if attempts, ok := err.(interface{ Unwrap() []error }); ok {
		err = attempts.Unwrap()[len(attempts.Unwrap())-1]
	}
	if network, ok := errors.AsType[*net.OpError](err); ok && len(hosts) == 1 {
		return network.Err.Error()
	}
	text := err.Error()
	text = text[strings.LastIndexByte(text, '\n')+1:]
	if _, reason, ok := strings.Cut(text, "): "); ok && len(hosts) == 1 { // after "127.0.0.1:5432 (localhost"
		return reason
	}
	return text
}

type connectError struct {
	text string
	err  error
}

func (e *connectError) Error() string { return e.text }
func (e *connectError) Unwrap() error { return e.err }
