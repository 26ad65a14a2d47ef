package pgcluster

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pglocal"
)

// developers is a server that is not ours, with processes that come and go.
type developers struct {
	t   *testing.T
	url string
}

func server(t *testing.T) developers {
	t.Helper()
	binaries, err := pglocal.Find(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pglocal.Start(t.Context(), binaries, pglocal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return developers{t, s.URL("")}
}

// process begins one. The function ends it, as kill does: all that it leaves is in the database.
func (d developers) process() (*Cluster, func()) {
	d.t.Helper()
	c, err := open(d.t.Context(), func(name string) string { return map[string]string{"DATABASE_URL": d.url}[name] })
	if err != nil {
		d.t.Fatal(err)
	}
	end := sync.OnceFunc(func() { _ = c.Close() })
	d.t.Cleanup(end)
	return c, end
}

// databases are those of tests, templates without their hash.
func (d developers) databases() (names string) {
	d.t.Helper()
	conn, err := pgx.Connect(d.t.Context(), d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(d.t.Context(), `
		select coalesce(string_agg(datname, ' ' order by datname), '') from pg_database where datname like 'projectiontest%'`).Scan(&names); err != nil {
		d.t.Fatal(err)
	}
	return names
}

func (d developers) has(name string) bool {
	d.t.Helper()
	return strings.Contains(" "+d.databases()+" ", " "+name+" ")
}

func template(content string, made *atomic.Int32, owners ...string) Template {
	return Template{Content: []byte(content), Owners: owners, Setup: func(ctx context.Context, url string) error {
		made.Add(1)
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "create table made ()")
		return errors.Join(err, conn.Close(ctx))
	}}
}

func create(t *testing.T, c *Cluster, from Template) string {
	t.Helper()
	name, err := c.CreateFrom(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), c.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "table made"); err != nil {
		t.Errorf("a copy of the template: %v", err)
	}
	return name
}

func TestTemplateIsMadeOnce(t *testing.T) {
	t.Parallel()
	d := server(t)
	var made atomic.Int32
	var wait sync.WaitGroup
	for range 3 {
		c, _ := d.process()
		for range 3 {
			wait.Go(func() { create(t, c, template("one", &made, "bank")) })
		}
	}
	wait.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("three processes made the template %d times, want once", n)
	}
}

// A template goes when its definition has changed, but not under the feet of a process, and not for another definition's sake.
func TestOutdatedTemplates(t *testing.T) {
	t.Parallel()
	d := server(t)
	var made atomic.Int32
	first, end := d.process()
	old, other := template("old", &made, "bank accounts", "bank transactions"), template("other", &made, "it's a shop")
	create(t, first, old)
	create(t, first, other)

	second, endSecond := d.process()
	create(t, second, old) // is now in use by both
	end()
	third, _ := d.process()
	create(t, third, template("new", &made, "bank transactions"))
	if !d.has(old.name("postgres")) {
		t.Error("a template that a process uses was dropped")
	}
	endSecond()
	create(t, third, template("newer", &made, "bank accounts"))
	if d.has(old.name("postgres")) {
		t.Error("an outdated template was not dropped")
	}
	if !d.has(other.name("postgres")) || !d.has(template("new", &made).name("postgres")) {
		t.Errorf("a template of another definition, or of the same process, was dropped; left are %s", d.databases())
	}

	if err := third.Drop(t.Context(), other.name("postgres")); err != nil {
		t.Fatal(err)
	}
	create(t, third, other) // whoever dropped it
}

func TestDatabasesOfKilledProcesses(t *testing.T) {
	t.Parallel()
	d := server(t)
	var made atomic.Int32
	killed, end := d.process()
	left := create(t, killed, template("one", &made))
	alive, _ := d.process()
	kept := create(t, alive, template("one", &made))
	if !d.has(left) {
		t.Error("a process that begins drops a database of one that is alive")
	}
	end()
	d.process()
	if d.has(left) || !d.has(kept) {
		t.Errorf("left are %s, want %s and not %s", d.databases(), kept, left)
	}
}

func TestSetupThatFails(t *testing.T) {
	t.Parallel()
	d := server(t)
	c, _ := d.process()
	var made atomic.Int32
	bad := template("one", &made)
	bad.Setup = func(context.Context, string) error { return errors.New("no such file") }
	if _, err := c.CreateFrom(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	if left := d.databases(); left != "" {
		t.Errorf("left %s", left)
	}
	create(t, c, template("one", &made))
}

// A process that is killed while it makes a template has left a database of its own.
func TestHalfATemplate(t *testing.T) {
	t.Parallel()
	d := server(t)
	killed, _ := d.process()
	var made atomic.Int32
	whole := template("one", &made)
	half := whole
	half.Setup = func(ctx context.Context, _ string) error {
		if err := killed.present.Close(ctx); err != nil {
			t.Error(err)
		}
		other, _ := d.process()
		if left := d.databases(); left != "" {
			t.Errorf("left %s", left)
		}
		if _, err := other.Create(ctx, whole.name("postgres")); err == nil {
			t.Error("half a template was copied")
		}
		return errors.New("killed")
	}
	_, _ = killed.CreateFrom(t.Context(), half)
}
