//go:build linux

package hoststest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/viewschema"
)

func TestMain(m *testing.M) {
	roles := map[string]func() error{roleHost: hold, roleServer: serve}
	switch name := os.Getenv(role); {
	case name == roleBank:
		cli.Main(version2())
	case name != "":
		if err := roles[name](); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

func version2() viewschema.Definition {
	d := bank.Definition
	d.Versions = d.Versions.UpTo(2)
	return d
}

// patience ends what hangs. It is shorter than all that would end a lost session without our settings: 5 minutes until a session counts
// as stuck, 15 until the kernel gives up what is not acknowledged, 2 hours until it asks whether anybody is there.
const patience = 2 * time.Minute

// store is a database at version 1, on a server of its own, with a migration to version 2 that has begun and done nothing yet.
type store struct {
	*pgxpool.Pool
	local, remote string // URLs: for this process, and for other hosts
}

func newStore(t *testing.T, server *host) *store {
	t.Helper()
	s := &store{}
	s.local, s.remote = server.server(t)
	var err error
	if s.Pool, err = pgxpool.New(t.Context(), s.local); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	conn, err := s.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), bank.EventTable)
	if err == nil {
		err = bank.Fill(t.Context(), conn.Conn(), 12_000, 1)
	}
	conn.Release()
	if err != nil {
		t.Fatal(err)
	}
	s.run(t, v1.Definition, "migrate", "online")
	s.run(t, v1.Definition, "migrate", "offline")

	// A batch tells what holds for its session: nobody else can ask the kernel for that.
	if _, err := s.Exec(t.Context(), `
		create table told (settings text);
		create function tell() returns trigger language plpgsql as $$
		begin
			insert into public.told values (format('%s s, %s s, %s, %s ms', current_setting('tcp_keepalives_idle'),
				current_setting('tcp_keepalives_interval'), current_setting('tcp_keepalives_count'), current_setting('tcp_user_timeout')));
			return new;
		end $$;
		create trigger tell before update on view_schema.projector_batches for each row execute function tell()`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	begun := exec.CommandContext(t.Context(), os.Args[0], "migrate", "online")
	begun.Env = append(os.Environ(), role+"="+roleBank, "DATABASE_URL="+s.local, "PROJECTOR_FAULT=after:begin")
	if out, err := begun.CombinedOutput(); begun.ProcessState.ExitCode() != -1 {
		t.Fatalf("it was to be killed: %v\n%s", err, out)
	}
	return s
}

// run runs a command line in this process, and wants it to succeed.
func (s *store) run(t *testing.T, d viewschema.Definition, args ...string) (stdout []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, log bytes.Buffer
	environment := map[string]string{"DATABASE_URL": s.local}
	process := cli.Process{Args: append([]string{"bank"}, args...), Stdout: &out, Stderr: &log, Getenv: func(name string) string { return environment[name] }}
	if exit := cli.Run(ctx, d, process); exit != 0 {
		t.Fatalf("%s: exit code %d\n%s", strings.Join(args, " "), exit, &log)
	}
	return out.Bytes()
}

// workers is what status says of those that have a batch, by host.
func (s *store) workers(t *testing.T) map[string]viewschema.Worker {
	t.Helper()
	var st viewschema.Status
	if err := json.Unmarshal(s.run(t, version2(), "--json", "status"), &st); err != nil {
		t.Fatal(err)
	}
	list := map[string]viewschema.Worker{}
	if st.Migration != nil {
		for _, w := range st.Migration.Workers {
			if w.Batch > 0 { // else it has the lane
				list[w.Host] = w
			}
		}
	}
	return list
}

// closeGate keeps batches from being marked as done: who has stored all rows of one waits. The returned function opens it.
func (s *store) closeGate(t *testing.T) (open func()) {
	t.Helper()
	tx, err := s.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), "lock table view_schema.projector_batches in share mode")
	}
	if err != nil {
		t.Fatal(err)
	}
	open = sync.OnceFunc(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	t.Cleanup(open)
	return open
}

// awaitAtGate returns when so many sessions wait for the gate to open.
func (s *store) awaitAtGate(t *testing.T, sessions int) {
	t.Helper()
	s.await(t, fmt.Sprintf("%d sessions at the gate", sessions), func() bool {
		var n int
		err := s.QueryRow(t.Context(), `
			select count(*) from pg_locks where relation = 'view_schema.projector_batches'::regclass and not granted`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n == sessions
	})
}

func (s *store) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for tick := time.NewTicker(20 * time.Millisecond); !is(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("there is no %s after %s", what, patience)
		}
	}
}

// finish cuts over to what was built, and holds every row against a replay by hand, the batches against the events, and what held
// for their sessions against the settings.
func (s *store) finish(t *testing.T, settings string) {
	t.Helper()
	var told string
	if err := s.QueryRow(t.Context(), "select string_agg(distinct settings, '; ') from told").Scan(&told); err != nil || told != settings {
		t.Errorf("sessions had %q, want %q; %v", told, settings, err)
	}
	var pending, replayed, events int64
	err := s.QueryRow(t.Context(), `
		select count(*) filter (where done_at is null), sum(events), (select count(*) from events)
		from view_schema.projector_batches
		where migration_id = 2`).Scan(&pending, &replayed, &events)
	if err != nil || pending != 0 || replayed != events {
		t.Errorf("%d events were replayed, of %d, and %d batches are pending; %v", replayed, events, pending, err)
	}
	s.run(t, version2(), "migrate", "offline")
	tables, err := bank.Verify(t.Context(), s, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range tables {
		if c.Rows == 0 || !c.Same() {
			t.Error(c)
		}
	}
}

// doneBy says which session has done a batch.
func (s *store) doneBy(t *testing.T, batch int) (worker string) {
	t.Helper()
	err := s.QueryRow(t.Context(), "select worker from view_schema.projector_batches where migration_id = 2 and number = $1", batch).Scan(&worker)
	if err != nil {
		t.Fatal(err)
	}
	return worker
}

// worker is "migrate online" on a host.
type worker struct {
	*exec.Cmd
	log output
}

// work starts a worker with one batch at a time, which is killed if it is still there when the test ends.
func (h *host) work(t *testing.T, url string) *worker {
	t.Helper()
	w := &worker{Cmd: h.command(t.Context(), os.Args[0], "--workers", "1", "--no-progress", "migrate", "online")}
	w.Env = append(os.Environ(), role+"="+roleBank, "DATABASE_URL="+url)
	w.Stdout, w.Stderr = &w.log, &w.log
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if w.ProcessState == nil {
			_ = w.Wait() // killed: its context has ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", h.name, w.log.text())
		}
	})
	return w
}

// succeeds waits for the worker to end.
func (w *worker) succeeds(t *testing.T) {
	t.Helper()
	hangs := time.AfterFunc(patience, func() { _ = w.Process.Kill() })
	defer hangs.Stop()
	if err := w.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, w.log.text())
	}
}

// output can be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
