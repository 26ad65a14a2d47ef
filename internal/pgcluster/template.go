package pgcluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pg"
)

// Template is a database that is filled once on a server, to be copied by the tests of many processes.
type Template struct {
	// Content is all that the content depends on: another content is another template.
	Content []byte
	// Owners name what the template is of. A template with other content and a common owner is outdated, and is dropped when
	// a new one is made, unless the process that used it last is alive.
	Owners []string
	Setup  func(ctx context.Context, url string) error
}

// note is the comment on a template.
type note struct {
	Owners []string `json:"template_of"`
	UsedBy string   `json:"last_used_by"` // process
}

// templateLock is the first key of an advisory lock, whose second is the hash of the template's name.
const templateLock = 0x70726f6a // "proj"

// name differs between databases that processes come from, since an advisory lock is one database's.
func (t Template) name(database string) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n", database)
	sum.Write(t.Content)
	return prefix + hex.EncodeToString(sum.Sum(nil)[:12])
}

// CreateFrom makes a database out of the template, which is made if there is none.
func (c *Cluster) CreateFrom(ctx context.Context, t Template) (name string, err error) {
	from := t.name(c.admin.Config().ConnConfig.Database)
	for range 3 {
		if name, err = c.Create(ctx, from); err == nil {
			return name, c.claim(ctx, t, from)
		}
		if failed, ok := errors.AsType[*pgconn.PgError](err); !ok || failed.Code != noSuchDatabase && failed.Code != stillInUse {
			return "", err
		}
		// It was never made, is being made, or another process has dropped it as outdated.
		if err := c.make(context.WithoutCancel(ctx), t, from); err != nil {
			return "", err
		}
	}
	return "", err
}

// claim keeps other processes from dropping the template while this one is alive.
func (c *Cluster) claim(ctx context.Context, t Template, name string) error {
	if _, claimed := c.claimed.LoadOrStore(name, true); claimed || c.server.Private() {
		return nil
	}
	conn, err := c.admin.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return c.describe(ctx, conn, t, name)
}

// describe says what the template is of, and who has used it.
func (c *Cluster) describe(ctx context.Context, conn *pgxpool.Conn, t Template, name string) error {
	text, err := json.Marshal(note{Owners: t.Owners, UsedBy: c.process})
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "comment on database "+name+" is "+pg.Literal(string(text)))
	return err
}

// SQLSTATEs of create database.
const (
	noSuchDatabase = "3D000"
	stillInUse     = "55006"
)

// make makes the template, or waits until another process has.
func (c *Cluster) make(ctx context.Context, t Template, name string) error {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	conn, err := c.admin.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1, hashtext($2))", templateLock, name); err != nil {
		return err
	}
	defer func() { _, _ = conn.Exec(ctx, "select pg_advisory_unlock($1, hashtext($2))", templateLock, name) }()

	found, err := templates(ctx, conn)
	if err != nil || found[name] != nil {
		return err
	}
	// It gets its name when it is complete: until then, it is a database of this process.
	draft, err := c.Create(ctx, "")
	if err != nil {
		return err
	}
	if err := t.Setup(ctx, c.URL(draft)); err != nil {
		return errors.Join(err, c.Drop(ctx, draft))
	}
	if err := c.describe(ctx, conn, t, draft); err != nil {
		return err
	}
	// A session of whoever looks around on the server would keep it from being copied.
	if _, err := conn.Exec(ctx, "alter database "+draft+" allow_connections false"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "alter database "+draft+" rename to "+name); err != nil {
		return err
	}
	return c.dropOutdated(ctx, conn, t, name, found)
}

// templates returns the templates of our role.
func templates(ctx context.Context, conn *pgxpool.Conn) (map[string]*note, error) {
	rows, err := conn.Query(ctx, `
		select datname::text, pg_catalog.shobj_description(oid, 'pg_database')
		from pg_catalog.pg_database
		where datname ~ '^`+prefix+`[0-9a-f]{24}$' and pg_catalog.pg_has_role(datdba, 'usage')
		  and pg_catalog.shobj_description(oid, 'pg_database') is not null`)
	if err != nil {
		return nil, err
	}
	found := map[string]*note{}
	var name, text string
	_, err = pgx.ForEachRow(rows, []any{&name, &text}, func() error {
		n := &note{}
		if json.Unmarshal([]byte(text), n) == nil { // else the comment is somebody else's, and so is the database
			found[name] = n
		}
		return nil
	})
	return found, err
}

func (c *Cluster) dropOutdated(ctx context.Context, conn *pgxpool.Conn, t Template, name string, found map[string]*note) error {
	for other, n := range found {
		if other == name || n.UsedBy == c.process || !slices.ContainsFunc(n.Owners, func(o string) bool { return slices.Contains(t.Owners, o) }) {
			continue
		}
		var used bool
		if err := conn.QueryRow(ctx, "select "+fmt.Sprintf(alive, "$1::text"), n.UsedBy).Scan(&used); err != nil {
			return err
		}
		if !used {
			_, _ = conn.Exec(ctx, "drop database if exists "+other) // being copied, or another process was faster
		}
	}
	return nil
}
