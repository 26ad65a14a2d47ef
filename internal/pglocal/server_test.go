package pglocal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/viewschema/projector/internal/pglocal"
)

// childEnv makes the test binary a program that starts a server and waits to be killed.
const childEnv = "PGLOCAL_TEST_CHILD"

// unattendedEnv makes that server an unattended one.
const unattendedEnv = "PGLOCAL_TEST_UNATTENDED"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

func child() error {
	server, err := start(context.Background(), pglocal.Options{TempDir: os.Getenv(childEnv), Unattended: os.Getenv(unattendedEnv) != ""})
	if err != nil {
		return err
	}
	fmt.Println(server.PID(), server.Dir())
	select {}
}

func start(ctx context.Context, options pglocal.Options) (*pglocal.Server, error) {
	binaries, err := pglocal.Find(os.Getenv)
	if err != nil {
		return nil, err
	}
	return pglocal.Start(ctx, binaries, options)
}

func query(ctx context.Context, url, sql string) (answer string, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, sql).Scan(&answer)
	return answer, err
}

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	server, err := start(t.Context(), pglocal.Options{Settings: map[string]string{"max_connections": "23", "application_name": "it's"}})
	if err != nil {
		t.Fatal(err)
	}
	for setting, want := range map[string]string{
		"max_connections": "23", "application_name": "it's", "fsync": "off", "listen_addresses": "", "server_encoding": "UTF8",
	} {
		if got, err := query(t.Context(), server.URL("template1"), "select current_setting('"+setting+"')"); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", setting, got, err, want)
		}
	}
	for range 2 {
		if err := server.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	if alive(server.PID()) {
		t.Errorf("process %d is alive after Stop", server.PID())
	}
	if _, err := os.Stat(server.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v; want it removed", server.Dir(), err)
	}
}

func TestDurable(t *testing.T) {
	t.Parallel()
	server, err := start(t.Context(), pglocal.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Stop() }()
	if got, err := query(t.Context(), server.URL(""), "select current_setting('fsync')"); err != nil || got != "on" {
		t.Errorf("fsync is %q, %v; want on", got, err)
	}
}

func TestCrash(t *testing.T) {
	t.Parallel()
	server, err := start(t.Context(), pglocal.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Stop() }()
	conn, err := pgx.Connect(t.Context(), server.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "create table kept as select 'it is there' as text"); err != nil {
		t.Fatal(err)
	}
	before := server.PID()
	if err := server.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if server.PID() == before || alive(before) {
		t.Errorf("process %d was %d", server.PID(), before)
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a session has survived")
	}
	if got, err := query(t.Context(), server.URL(""), "select text from kept"); err != nil || got != "it is there" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAStartThatFailsShowsTheLogAndLeavesNothing(t *testing.T) {
	t.Parallel()
	temp := openTemp(t)
	_, err := start(t.Context(), pglocal.Options{TempDir: temp, Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("got %v, want the server's own message", err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestACancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	temp := openTemp(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := start(ctx, pglocal.Options{TempDir: temp}); err == nil {
		t.Error("started in 100 ms: want an error")
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestAFolderThatTheServerCannotUse(t *testing.T) {
	t.Parallel()
	closed := openTemp(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	long := openTemp(t) + "/" + strings.Repeat("x", 90)
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, temp := range []string{closed, long} {
		server, err := start(t.Context(), pglocal.Options{TempDir: temp})
		if err != nil {
			t.Errorf("no server in /tmp instead of %s: %v", temp, err)
			continue
		}
		if os.Geteuid() == 0 && strings.HasPrefix(server.Dir(), temp) {
			t.Errorf("the folder is %s", server.Dir())
		}
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestDatabaseURLIsTheServer(t *testing.T) {
	t.Parallel()
	for base, want := range map[string]string{
		"postgres://me@host:6543/mine?sslmode=disable": "postgres://me@host:6543/other?sslmode=disable",
		"host=/run/pg dbname=mine":                     "host=/run/pg dbname=mine dbname='other'",
	} {
		server, err := pglocal.Open(t.Context(), func(name string) string {
			return map[string]string{"DATABASE_URL": base}[name]
		}, pglocal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := server.URL("other"); got != want || server.URL("") != base || server.Private() {
			t.Errorf("got %s, want %s", got, want)
		}
		config, err := pgx.ParseConfig(server.URL("other"))
		if err != nil || config.Database != "other" {
			t.Errorf("pgx reads the database %q, %v", config.Database, err)
		}
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// openTemp is a temporary folder that every user may enter, with a short name; t.TempDir is neither.
func openTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pglocal-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
