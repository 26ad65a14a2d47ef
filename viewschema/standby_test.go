package viewschema_test

import (
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// replicated is a database at version 1 on a server of its own, with a hot standby, and a schema that reads events there. Statements on
// the primary go to one watcher, those on the standby and the log to another.
type replicated struct {
	*viewschema.Schema
	primary, standby *pgxpool.Pool // of the test, not watched
}

func newReplicated(t *testing.T, onPrimary, onStandby *watcher) replicated {
	t.Helper()
	return newReplicatedAt(t, atVersion1, version2(), viewschema.Options{}, nil, onPrimary, onStandby)
}

func newReplicatedAt(t *testing.T, setup pgtest.Setup, d viewschema.Definition, o viewschema.Options, settings map[string]string, onPrimary, onStandby *watcher) replicated {
	t.Helper()
	primary, standbys := pgtest.Replicated(t, setup, settings)
	r := replicated{primary: pgtest.Pool(t, primary), standby: pgtest.Pool(t, standbys[0])}
	views := connecting(t, r.primary, func(c *pgx.ConnConfig) { c.Tracer = onPrimary })
	reads := connecting(t, r.standby, func(c *pgx.ConnConfig) { c.Tracer = onStandby })
	events, located, err := viewschema.Locate(t.Context(), views, reads)
	if err != nil || events != nil || located != reads {
		t.Fatalf("the standby is taken for something else: %v", err)
	}
	o.Standby, o.Log = reads, zerolog.New(onStandby)
	r.Schema, err = viewschema.Open(views, d, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reads says whether a statement begins to read events to replay them. After it, a session has the event table open, and has read nothing.
func reads(sql string) bool { return strings.Contains(sql, "declare projector_events") }

// replayed waits until the standby has replayed what the primary has written.
func (r replicated) replayed(t *testing.T) {
	t.Helper()
	mustExec(t, r.primary, "begin; set local synchronous_commit = on; select pg_logical_emit_message(true, 'test', ''); commit")
	written := scalar[int64](t, r.primary, "select (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8")
	for scalar[int64](t, r.standby, "select (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::int8") < written {
		continue
	}
}

// pause has the standby replay nothing more, until resume is called.
func (r replicated) pause(t *testing.T) (resume func()) {
	t.Helper()
	mustExec(t, r.standby, "select pg_wal_replay_pause()")
	for scalar[string](t, r.standby, "select pg_get_wal_replay_pause_state()") != "paused" {
		continue
	}
	return func() { mustExec(t, r.standby, "select pg_wal_replay_resume()") }
}

// Writers append at full speed while batches, the lane and catch-ups read from a standby, and the cutover from the primary. Before that,
// no event is read on the primary.
func TestStandby(t *testing.T) {
	t.Parallel()
	var onPrimary, onStandby atomic.Int64
	cuttingOver := atomic.Bool{}
	r := newReplicated(t, &watcher{before: func(sql string) {
		if reads(sql) && !cuttingOver.Load() {
			onPrimary.Add(1)
		}
	}}, &watcher{before: func(sql string) {
		if reads(sql) {
			onStandby.Add(1)
			if cuttingOver.Load() {
				t.Error("the cutover reads the standby")
			}
		}
	}})
	stop := writers(t, r.primary, 3, rand.Uint64(), v1.Definition, version2())
	if built := online(t, r.Schema); built.Cut == 0 || built.CutReason != "" {
		t.Errorf("cut %d: %s", built.Cut, built.CutReason)
	}
	if ledger := scalar[int](t, r.primary, "select count(*) from view_schema.projector_replayed_ids"); ledger > 0 {
		t.Errorf("%d events above the cut were read", ledger)
	}
	for range 3 {
		if _, err := r.CatchUp(t.Context()); err != nil {
			t.Error(err)
		}
	}
	cuttingOver.Store(true)
	offline(t, r.Schema)
	stop()
	verify(t, r.primary, 2)
	if n := onPrimary.Load(); n > 0 || onStandby.Load() == 0 {
		t.Errorf("events were read %d times on the primary, and %d times on the standby", n, onStandby.Load())
	}
	if left := scalar[int](t, r.primary, "select count(*) from view_schema.projector_marks"); left > 0 {
		t.Errorf("%d marks are left", left)
	}
}

// A standby that is behind is waited for, by batches, by the lane and by catch-ups: it has nothing of what the cut says that there is. Seen to
// lose events without the wait.
func TestStandbyIsBehind(t *testing.T) {
	t.Parallel()
	var looks atomic.Int64
	waits := make(chan struct{}, 1)
	r := newReplicated(t, &watcher{}, &watcher{before: func(sql string) {
		if strings.Contains(sql, "from \"view_schema\".projector_marks") && looks.Add(1) == 4 {
			waits <- struct{}{}
		}
	}})
	for _, step := range []func() (viewschema.Result, error){
		func() (viewschema.Result, error) { return r.MigrateOnline(t.Context()) },
		func() (viewschema.Result, error) { return r.CatchUp(t.Context()) },
	} {
		resume := r.pause(t)
		mustExec(t, r.primary, openAccount)
		looks.Store(0)
		done := make(chan error, 1)
		go func() {
			_, err := step()
			done <- err
		}()
		select {
		case <-waits:
		case err := <-done:
			t.Errorf("the standby was not waited for: %v", err)
			done <- err
		}
		st, err := r.Status(t.Context())
		if err != nil || st.Standby == nil || !st.Standby.Recovers || st.Standby.Behind == 0 {
			t.Errorf("status: %+v, %v", st.Standby, err)
		}
		resume()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n := tail(t, r.Schema); n > 0 {
			t.Errorf("%d events are lacking", n)
		}
	}
	offline(t, r.Schema)
	verify(t, r.primary, 2, "accounts", "branch_totals", "transfers") // nobody projects live
}

// Work is held back while the standby is behind, and says so.
func TestStandbyLagHoldsBack(t *testing.T) {
	t.Parallel()
	o := viewschema.Options{Throttle: func(t *viewschema.Throttle) { t.MaxLag = time.Millisecond }}
	r := newReplicatedAt(t, filledStore, v1.Definition, o, nil, &watcher{}, &watcher{})
	resume := r.pause(t)
	done := make(chan error, 1)
	go func() {
		_, err := r.MigrateOnline(t.Context())
		done <- err
	}()
	for began := time.Now(); ; {
		st, err := r.Status(t.Context())
		if err != nil {
			t.Error(err)
			break
		}
		if len(st.AtWork) == 1 && strings.HasPrefix(st.AtWork[0].Holding, "the standby that events are read from is ") {
			break
		}
		if time.Since(began) > patience {
			t.Errorf("it does not hold back: %+v", st.AtWork)
			break
		}
	}
	resume()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A server that has taken over may lack a mark, and so the history that was read: what was read with that one is not stored.
func TestStandbyMarkIsGone(t *testing.T) {
	t.Parallel()
	var r replicated
	var claims, made atomic.Int64
	onPrimary := &watcher{}
	onPrimary.before = func(sql string) {
		switch {
		case strings.Contains(sql, "insert into \"view_schema\".projector_marks"):
			made.Add(1)
		case strings.Contains(sql, "for update skip locked") && claims.Add(1) == 1:
			mustExec(t, r.primary, "delete from view_schema.projector_marks")
		}
	}
	r = newReplicatedAt(t, filledStore, v1.Definition, viewschema.Options{Workers: 1}, nil, onPrimary, &watcher{})
	online(t, r.Schema)
	offline(t, r.Schema)
	verify(t, r.primary, 1)
	if n := made.Load(); n < 2 { // a pass is all that one worker needs, unless it is read again
		t.Errorf("%d marks were made", n)
	}
}

// What a role may not read there is said with what to type; and what no cut can be settled for is read from the primary, which is said, too.
func TestStandbyIsNoUse(t *testing.T) {
	t.Parallel()
	w := &watcher{}
	r := newReplicatedAt(t, filledStore, v1.Definition, viewschema.Options{}, nil, &watcher{}, w)
	mustExec(t, r.primary, "create role reader login; grant select on events to reader")
	r.replayed(t)
	theirs := connecting(t, r.standby, func(c *pgx.ConnConfig) { c.User = "reader" })
	if _, standby, err := viewschema.Locate(t.Context(), r.primary, theirs); err != nil || standby != theirs {
		t.Fatal(err)
	}
	s, err := viewschema.Open(r.primary, v1.Definition, viewschema.Options{Standby: theirs})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.MigrateOnline(t.Context()); err == nil || !strings.Contains(err.Error(), `grant usage on schema "view_schema"`) {
		t.Errorf("%v", err)
	}
	found, err := s.Doctor(t.Context())
	if err != nil || !strings.HasPrefix(finding(t, found, "our role reader may not read schema view_schema").Remedy, "grant usage on schema view_schema to reader; grant select") {
		t.Errorf("%v", err)
	}
	mustExec(t, r.primary, "grant usage on schema view_schema to reader")
	r.replayed(t)
	if found, err = s.Doctor(t.Context()); err != nil {
		t.Error(err)
	}
	finding(t, found, "our role reader may not read schema view_schema")
	mustExec(t, r.primary, "grant select on all tables in schema view_schema to reader")
	r.replayed(t)
	online(t, s)
	if _, err := s.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}

	mustExec(t, r.primary, "alter sequence events_position_seq cache 10")
	w.before = func(sql string) {
		if reads(sql) {
			t.Error("what is not settled is read from the standby")
		}
	}
	online(t, r.Schema)
	offline(t, r.Schema)
	verify(t, r.primary, 1)
	if !strings.Contains(w.log(), "events are read from the primary, and not from the standby") {
		t.Error("it is not said that the primary is read")
	}
}
