package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/examples/bank-sql/queries"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// asBank makes the test binary the command line of the bank's second release; its value names a definition.
const asBank = "CRASHTEST_AS_BANK"

var definitions = map[string]func() viewschema.Definition{"plain": version2, "obstacle": withObstacle, "SQL": inSQL, "obstacle in SQL": obstacleInSQL, "former": former, "alone": alone}

func TestMain(m *testing.M) {
	if name := os.Getenv(asBank); name != "" {
		cli.Main(definitions[name]())
	}
	pgtest.Main(m)
}

// alone is a second version of the first release's tables, to which each account adds its rows and no others.
func alone() viewschema.Definition {
	d := v1.Definition
	d.Versions = projector.Versions{1: d.Versions[1], 2: d.Versions[1]}
	return d
}

func former() viewschema.Definition { return v1.Definition }

func version2() viewschema.Definition {
	d := bank.Definition
	d.Versions = d.Versions.UpTo(2)
	return d
}

// inSQL is the second release with tables that queries fill, both of which are rebuilt.
func inSQL() viewschema.Definition {
	d := version2()
	d.Events, d.Projectors = nil, queries.Projectors()
	replay := projector.Replay(d.Projectors[0], d.Projectors[1])
	d.Versions = projector.Versions{1: {replay}, 2: {replay}}
	return d
}

// obstacleInSQL is inSQL with a function in one of the queries.
func obstacleInSQL() viewschema.Definition {
	d := inSQL()
	for _, p := range d.Projectors {
		if q := p.Tables[0].(*projections.SQLTable); q.Name == "accounts" {
			q.Query = strings.Replace(q.Query, "having", "having public.obstacle() and", 1)
		}
	}
	return d
}

// filledStore is a database with events for three batches.
func filledStore(ctx context.Context, conn *pgx.Conn) error { return fill(ctx, conn, 6_000) }

// atVersion1 is the same with the first release live.
func atVersion1(ctx context.Context, conn *pgx.Conn) error { return atVersion1With(ctx, conn, 6_000) }

// referenced is atVersion1 with a table that references a view table.
func referenced(ctx context.Context, conn *pgx.Conn) error {
	if err := atVersion1(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "create table notes (account uuid references view_schema.accounts)")
	return err
}

func fill(ctx context.Context, conn *pgx.Conn, events int) error {
	if _, err := conn.Exec(ctx, bank.EventTable); err != nil {
		return err
	}
	return bank.Fill(ctx, conn, events, 1)
}

func atVersion1With(ctx context.Context, conn *pgx.Conn, events int) error {
	if err := fill(ctx, conn, events); err != nil {
		return err
	}
	db, err := pgxpool.New(ctx, conn.Config().ConnString())
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := viewschema.Open(db, v1.Definition, viewschema.Options{Workers: 1}) // the tests are of what comes later
	if err != nil {
		return err
	}
	if _, err := s.MigrateOnline(ctx); err != nil {
		return err
	}
	_, err = s.MigrateOffline(ctx)
	return err
}

// releases are the bank's, for an application that goes on from one to the next at the cutover.
func releases(t *testing.T) (list []bank.Release) {
	t.Helper()
	for _, d := range []viewschema.Definition{v1.Definition, version2()} {
		r, err := bank.NewRelease(d)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

// appendEvents lets customers act, old ones and new ones, until there are so many new events or a few more. Each call in a
// test needs a seed of its own.
func appendEvents(t *testing.T, url string, n int, seed uint64) {
	t.Helper()
	db := connect(t, url, "bank") // whatever has happened to the caller's connections
	defer db.Close()
	sets, err := bank.ShareOut(t.Context(), db, seed, 1)
	if err != nil {
		t.Fatal(err)
	}
	customers := sets[0]
	store := &bank.Store{DB: db, Releases: releases(t)}
	for left := n; left > 0; {
		events := customers.Act()
		for len(events) < min(left, 500) {
			events = append(events, customers.Act()...)
		}
		if err := store.Append(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
		left -= len(events)
	}
}

// connect makes a pool whose sessions have that name.
func connect(t *testing.T, url, name string, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = name
	for _, f := range configure {
		f(config)
	}
	db, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// verify holds the live tables against a replay by hand.
func verify(t *testing.T, db *pgxpool.Pool, version int, names ...string) {
	t.Helper()
	tables, err := bank.Verify(t.Context(), db, version, names...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range tables {
		if !c.Same() || c.Rows == 0 {
			t.Errorf("version %d, %s", version, c)
		}
	}
}

// kills counts the command lines that died of SIGKILL.
var kills atomic.Int64

// command is a run of the command line as a process of its own.
type command struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
}

func newCommand(ctx context.Context, db *pgxpool.Pool, definition, fault string, args ...string) *command {
	c := &command{Cmd: exec.CommandContext(ctx, os.Args[0], args...)} // which kills with SIGKILL when ctx ends
	c.Env = append(os.Environ(), asBank+"="+definition, "PROJECTOR_FAULT="+fault, "DATABASE_URL="+db.Config().ConnString())
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	return c
}

// killed says whether a process that has ended died of SIGKILL. That it failed by itself is an error.
func (c *command) killed(t *testing.T) bool {
	t.Helper()
	status, _ := c.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGKILL:
		kills.Add(1)
		return true
	case !c.ProcessState.Success():
		t.Errorf("%s: %s\n%s", strings.Join(c.Args[1:], " "), c.ProcessState, &c.stderr)
	}
	return false
}

// patience ends a command that hangs. It is shorter than the time-out that ends the claim of a worker that hangs: nothing
// here may depend on that one.
const patience = 2 * time.Minute

// run runs a command line in this process and wants it to succeed.
func run(t *testing.T, db *pgxpool.Pool, args ...string) (stdout string) {
	t.Helper()
	exit, stdout, stderr := exits(t, db, "plain", args...)
	if exit != 0 {
		t.Fatalf("%s: exit code %d\n%s", strings.Join(args, " "), exit, stderr)
	}
	return stdout
}

func exits(t *testing.T, db *pgxpool.Pool, definition string, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, log bytes.Buffer
	environment := map[string]string{"DATABASE_URL": db.Config().ConnString()}
	exit = cli.Run(ctx, definitions[definition](), cli.Process{
		Args: append([]string{"bank"}, args...), Stdout: &out, Stderr: &log,
		Getenv: func(name string) string { return environment[name] },
	})
	return exit, out.String(), log.String()
}

// state is what version and status say, in a few words. It holds the live tables against the version that they are said
// to have: whatever the migration has got to, they are whole.
func state(t *testing.T, db *pgxpool.Pool) string {
	t.Helper()
	var version struct{ Current, Target int }
	var status viewschema.Status
	for command, into := range map[string]any{"version": &version, "status": &status} {
		if err := json.Unmarshal([]byte(run(t, db, "--json", command)), into); err != nil {
			t.Fatal(err)
		}
	}
	if version.Current != status.Current || version.Target != 2 || status.Target != 2 {
		t.Errorf("version says %v and status %d, %d", version, status.Current, status.Target)
	}
	words := fmt.Sprintf("version %d", status.Current)
	if m := status.Migration; m != nil {
		words += fmt.Sprintf(", %s, %s %d", m.State, m.Phase, m.BatchesDone)
		if m.Tail > 0 {
			words += ", tail"
		}
		if m.Ledger > 0 {
			words += ", ledger"
		}
	}
	var exist, empty bool
	if err := db.QueryRow(t.Context(), "select to_regclass('view_schema.accounts') is not null").Scan(&exist); err != nil {
		t.Fatal(err)
	}
	if exist != (status.Current > 0) {
		t.Errorf("at version %d, it is %t that accounts exists", status.Current, exist)
	}
	if !exist {
		return words
	}
	if err := db.QueryRow(t.Context(), "select not exists (select from view_schema.accounts)").Scan(&empty); err != nil {
		t.Fatal(err)
	}
	if empty {
		return words + ", empty"
	}
	verify(t, db, status.Current)
	return words
}
