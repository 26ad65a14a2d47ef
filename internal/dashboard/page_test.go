package dashboard

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// atVersion1 is a database whose first release is live, with 10,000 events, which are five batches.
func atVersion1(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, bank.EventTable); err != nil {
		return err
	}
	if err := bank.Fill(ctx, conn, 10_000, 1); err != nil {
		return err
	}
	db, err := pgxpool.New(ctx, conn.Config().ConnString())
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := viewschema.Open(db, v1.Definition, viewschema.Options{})
	if err != nil {
		return err
	}
	if _, err := s.MigrateOnline(ctx); err != nil {
		return err
	}
	_, err = s.MigrateOffline(ctx)
	return err
}

func version2() viewschema.Definition {
	d := bank.Definition
	d.Versions = d.Versions.UpTo(2)
	return d
}

// database is a Source.
type database struct {
	*viewschema.Schema
	*pgxpool.Pool
}

func open(t *testing.T, db *pgxpool.Pool, o viewschema.Options) *viewschema.Schema {
	t.Helper()
	s, err := viewschema.Open(db, version2(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serving serves the source at an address, which may be empty, and returns the origin and what ends it.
func serving(t *testing.T, source Source, address string) (origin string, end func()) {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, source, zerolog.Nop()) }()
	once := false
	end = func() {
		cancel()
		if !once {
			once = true
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(end)
	return "http://" + l.Addr().String(), end
}

// gate lets the first batches be marked as done, and holds those that come after.
type gate struct {
	free     int32
	finished atomic.Int32
	held     chan struct{}
	opened   chan struct{}
}

func (g *gate) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "projector_batches") && strings.Contains(data.SQL, "set events =") && g.finished.Add(1) > g.free {
		g.held <- struct{}{}
		select {
		case <-g.opened:
		case <-ctx.Done():
		}
	}
	return ctx
}

func (*gate) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// heldOpen runs a migration until two batches are done and two are held open. The returned function lets it go on to its end.
func heldOpen(t *testing.T, db *pgxpool.Pool) (goOn func()) {
	t.Helper()
	const workers = 2
	g := &gate{free: 2, held: make(chan struct{}, 100), opened: make(chan struct{})}
	config := db.Config()
	config.ConnConfig.Tracer = g
	config.ConnConfig.RuntimeParams["application_name"] = "bank's rebuild"
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	ended := make(chan error, 1)
	go func() {
		_, err := open(t, own, viewschema.Options{Workers: workers, Runner: viewschema.Runner{Host: "worker-1", PID: 815}}).MigrateOnline(t.Context())
		ended <- err
	}()
	for range workers {
		select {
		case <-g.held:
		case err := <-ended:
			t.Fatalf("the migration has ended: %v", err)
		}
	}
	return func() {
		t.Helper()
		close(g.opened)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

func mustExec(t *testing.T, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func scalar[T any](t *testing.T, db *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

const insertRun = `
	insert into view_schema.projector_runs (migration_id, command, from_version, to_version, program, host, pid, started_at, seen_at, ended_at, outcome, error, failed,
		failed_batch, events, rows)
	values (2, $1, 1, 2, 'bank 1.2.3', 'db1.example', 4711, now() - interval '90 s', now() + $2 * interval '1 hour', case when $3 <> '' then now() - interval '10 s' end, nullif($3, ''),
		'iban NL00', $4, $5, 4000, 1234)`

// The page shows a migration as it goes: what is done, runs, waits and has failed, cell by cell as the database has it, and with each
// cell who works on it and how long.
func TestPageOfAMigration(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	db := pgtest.Database(t, atVersion1)
	goOn := heldOpen(t, db)
	origin, _ := serving(t, database{open(t, db, viewschema.Options{}), db}, "")

	// Not by Overview: cells counted from the batches' own bounds.
	const cells = `
		with bounds as (
			select number, done_at, coalesce(('x' || left(from_id, 3))::bit(12)::int, 0) as first, coalesce(('x' || left(to_id, 3))::bit(12)::int, 4096) as next
			from view_schema.projector_batches
			where migration_id = 2 and phase = 1
		)
		select sum(next - first)::int from bounds where `
	counts := func() map[string]int {
		return eval[map[string]int](b, `Object.fromEntries(["waiting", "running", "done", "failed"].map(
			(state) => [state, document.querySelectorAll(".cell[data-state=" + state + "]").length]))`)
	}
	b.open(origin)
	done, total := scalar[int](t, db, cells+"done_at is not null"), 4096
	got := counts()
	if got["done"] != done || got["failed"] != 0 || got["running"] == 0 || got["waiting"] == 0 || got["done"]+got["running"]+got["waiting"] != total {
		t.Errorf("the cells are %v, and %d should be done", got, done)
	}
	waits := eval[int](b, "overview.batches.find((b) => b.phase === 'replay' && b.state === 'waiting').number")
	mustExec(t, db, insertRun, "migrate online", 0, "failed", "projector accounts: event 812 (MoneyDeposited, sequence 3): no such row", waits)
	mustExec(t, db, insertRun, "migrate online", 1, "", "", nil)
	b.await("document.querySelector('.cell[data-state=failed]')")
	if got, want := counts(), scalar[int](t, db, cells+"number = $1", waits); got["failed"] != want || got["waiting"] != 0 || got["done"] != done {
		t.Errorf("the cells are %v, and %d should have failed", got, want)
	}
	for id, want := range map[string]string{
		"state": "building, phase replay, a batch has failed", "versions": "version 1 → 2", "errors": "no such row", "work": "db1.example",
		"workers": "worker-1", "legend": "done 2 batches",
		"numbers": strconv.FormatInt(scalar[int64](t, db, "select sum(events) from view_schema.projector_batches where migration_id = 2"), 10)[1:] + " of about ", "tables": "accounts_2", "steps": "index accounts",
	} {
		if got := b.text(id); !strings.Contains(got, want) {
			t.Errorf("%s is %q, and should have %q", id, got, want)
		}
	}
	if strings.Contains(eval[string](b, "document.documentElement.outerHTML"), "NL00") {
		t.Error("there is a payload on the page")
	}

	// Nothing is heard of the process any more.
	mustExec(t, db, `
		create function silent() returns trigger language plpgsql as $$ begin new.seen_at = now() - interval '16 s'; return new; end $$;
		create trigger silent before update on view_schema.projector_runs for each row when (new.ended_at is null) execute function silent()`)
	b.await("document.getElementById('workers').textContent.includes('lost: no sign of it since')")

	// With a mouse, with the keyboard and with a finger.
	at := eval[struct{ X, Y float64 }](b, `(() => {
		const r = document.querySelector(".cell[data-state=done]").getBoundingClientRect();
		return { X: r.x + r.width / 2, Y: r.y + r.height / 2 };
	})()`)
	b.do("Input.dispatchMouseEvent", map[string]any{"type": "mouseMoved", "x": at.X, "y": at.Y}, nil)
	if detail := b.text("detail"); !strings.Contains(detail, "is done, ") || !strings.Contains(detail, " events, ") || !strings.Contains(detail, "bank's rebuild on worker-1 (pid ") {
		t.Errorf("under the mouse is %q", detail)
	}
	b.do("Input.dispatchTouchEvent", map[string]any{"type": "touchStart", "touchPoints": []map[string]any{{"x": at.X, "y": at.Y + 100}}}, nil)
	b.do("Input.dispatchTouchEvent", map[string]any{"type": "touchEnd", "touchPoints": []any{}}, nil)
	touched := b.text("detail")
	eval[bool](b, "document.getElementById('grid').focus(), true")
	for _, key := range []string{"Home", "ArrowRight", "ArrowDown", "ArrowLeft"} {
		b.do("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key}, nil)
	}
	detail := b.text("detail")
	if !strings.HasPrefix(detail, "Partition 040: batch 1 (000 to ") || !strings.HasPrefix(touched, "Partition ") || touched == detail {
		t.Errorf("the finger is at %q, and the keys at %q", touched, detail)
	}
	if label := eval[string](b, "document.getElementById(document.getElementById('grid').getAttribute('aria-activedescendant')).getAttribute('aria-label')"); label != detail {
		t.Errorf("a screen reader hears %q", label)
	}
	b.pictures("building")

	goOn()
	b.await("document.getElementById('state').innerText === 'built'")
	if got := counts(); got["done"] != total {
		t.Errorf("the cells are %v", got)
	}
	if has := b.text("numbers"); !strings.Contains(has, "0 events to catch up with") {
		t.Errorf("the numbers are %q", has)
	}
	mustExec(t, db, insertRun, "migrate online", 0, "done", "", nil)
	b.await("document.getElementById('runs').innerText.includes('done')")
	b.pictures("built")
	b.calm(origin)
}

// With nothing under way, the page says so, and has the version, the tables and what was done.
func TestPageOfNothing(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	db := pgtest.Database(t, atVersion1)
	mustExec(t, db, insertRun, "migrate offline", 0, "done", "", nil)
	origin, _ := serving(t, database{open(t, db, viewschema.Options{}), db}, "")
	b.open(origin)
	for id, want := range map[string]string{
		"state": "nothing under way", "idle": "at version 1. Version 2 is defined", "tables": "transactions", "runs": "migrate offline",
	} {
		if got := b.text(id); !strings.Contains(got, want) {
			t.Errorf("%s is %q, and should have %q", id, got, want)
		}
	}
	if eval[bool](b, "!document.getElementById('grid-section').hidden") {
		t.Error("there is a grid of nothing")
	}
	b.pictures("idle")
	b.calm(origin)
}

// A page whose server is gone says since when, and goes on when it is back.
func TestPageLosesItsServer(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	db := pgtest.Database(t, atVersion1)
	source := database{open(t, db, viewschema.Options{}), db}
	origin, end := serving(t, source, "")
	b.open(origin)
	b.await("document.getElementById('connection').hidden")
	end()
	b.await("!document.getElementById('connection').hidden")
	if got := b.text("connection"); !strings.HasPrefix(got, "The connection is lost, since ") {
		t.Errorf("it says %q", got)
	}
	b.pictures("lost")
	serving(t, source, strings.TrimPrefix(origin, "http://"))
	b.await("document.getElementById('connection').hidden")
	mustExec(t, db, "drop schema view_schema cascade")
	b.await("overview.current === 0")
	if got := b.text("idle"); !strings.Contains(got, "there is no version yet") {
		t.Errorf("it says %q", got)
	}
}
