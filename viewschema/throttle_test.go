package viewschema_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// A migration that is paused in the midst of a rebuild, and of a catch-up, finishes what it has begun, has no transaction open, and
// goes on when it is told to, to the same end. Seen to fail, each, without what ends a pass of batches, one of groups, and the lane.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	operator := open(t, db, version2())
	pause := &pauser{t: t, db: db}
	s := watched(t, db, version2(), viewschema.Options{Workers: 1}, &watcher{before: pause.before})

	pause.at("set events = $3", "set position = $2") // a batch is done, and a slice of the lane
	pause.around(func() error {
		_, err := s.MigrateOnline(t.Context())
		return err
	}, func() {
		if done := scalar[int](t, db, underWay+"done_at is not null"); done > 2 { // one, and one that was offered already
			t.Errorf("%d batches are done", done)
		}
		if lacking := scalar[int](t, db, "select cut - position from view_schema.projector_lanes l join view_schema.projector_migrations m on m.id = l.migration_id"); lacking == 0 {
			t.Error("the lane has gone on")
		}
		st, err := operator.Status(t.Context())
		if err != nil || st.Migration.Throttle == nil || !st.Migration.Throttle.Paused || len(st.AtWork) != 1 || !strings.HasPrefix(st.AtWork[0].Holding, "paused; ") {
			t.Errorf("%v, %v", st.Migration, err)
		}
	}, operator)

	mustExec(t, db, `
		insert into events (aggregate_id, sequence_number, event_type, data)
		select aggregate_id, max(sequence_number) + n, 'MoneyDeposited', '{"amount": 1, "counterparty": "Ada", "description": "late"}'
		from events, generate_series(1, 60) n
		where aggregate_id in (select aggregate_id from events group by 1 having not bool_or(event_type = 'AccountClosed') limit 200)
		group by aggregate_id, n
		order by aggregate_id, n`)
	pause.at("synchronous_commit") // a group is begun
	pause.around(func() error {
		_, err := s.CatchUp(t.Context())
		return err
	}, func() {
		if recorded := scalar[int](t, db, "select count(*) from view_schema.projector_replayed_ids"); recorded == 12_000 {
			t.Error("the catch-up has gone on")
		}
	}, operator)
	if left := tail(t, operator); left != 0 {
		t.Errorf("%d events are lacking", left)
	}
	offline(t, s)
	verify(t, db, 2, "accounts", "branch_totals", "transfers") // nobody projects live
}

// underWay counts batches of the migration under way.
const underWay = "select count(*) from view_schema.projector_batches b join view_schema.projector_migrations m on m.id = b.migration_id where m.state = 'building' and "

func tail(t *testing.T, s *viewschema.Schema) int64 {
	t.Helper()
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Migration.Tail
}

// pauser pauses a migration at statements of its own, each of which waits until the migration knows.
type pauser struct {
	t  *testing.T
	db *pgxpool.Pool

	mu    sync.Mutex
	texts []string
}

func (p *pauser) at(texts ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.texts = texts
}

func (p *pauser) before(sql string) {
	p.mu.Lock()
	i := slices.IndexFunc(p.texts, func(text string) bool { return strings.Contains(sql, text) })
	if i >= 0 {
		p.texts = slices.Delete(p.texts, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 {
		return
	}
	mustExec(p.t, p.db, `
		insert into view_schema.projector_throttles (migration_id, paused) select max(id), true from view_schema.projector_migrations
		on conflict (migration_id) do update set paused = true`)
	p.holding("paused; ")
}

// noTransaction says whether nobody else has one open.
const noTransaction = "select not exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null)"

// holding waits until the run at work says why it holds back.
func (p *pauser) holding(why string) {
	p.t.Helper()
	await(p.t, p.db, "select exists (select from view_schema.projector_runs where ended_at is null and starts_with(holding, $1))", why)
}

// around does the work, which pauses; looks, when all that was begun is done; and resumes.
func (p *pauser) around(work func() error, look func(), operator *viewschema.Schema) {
	p.t.Helper()
	done := make(chan error, 1)
	go func() { done <- work() }()
	p.holding("paused; ")
	await(p.t, p.db, noTransaction)
	look()
	select {
	case err := <-done:
		p.t.Fatalf("it has ended although it was paused: %v", err)
	default:
	}
	if _, err := operator.ChangeThrottle(p.t.Context(), func(t *viewschema.Throttle) { t.Paused = false }); err != nil {
		p.t.Fatal(err)
	}
	if err := <-done; err != nil {
		p.t.Fatal(err)
	}
}

// await returns when a query yields true.
func await(t *testing.T, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	for began := time.Now(); !scalar[bool](t, db, sql, args...); {
		if time.Since(began) > patience {
			t.Fatalf("this does not come true: %s", sql)
		}
	}
}

// What the options ask for holds from the beginning.
func TestThrottleFromTheBeginning(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	pause := &pauser{t: t, db: db}
	s := watched(t, db, version2(), viewschema.Options{Throttle: func(t *viewschema.Throttle) { t.Paused = true }}, &watcher{})
	operator := open(t, db, version2())
	pause.around(func() error {
		_, err := s.MigrateOnline(t.Context())
		return err
	}, func() {
		if done := scalar[int](t, db, underWay+"done_at is not null"); done != 0 {
			t.Errorf("%d batches are done", done)
		}
	}, operator)
}

// A migration that holds back because others are busy goes on by itself when they are not.
func TestHoldsBackWhileOthersAreBusy(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	config := db.Config()
	config.ConnConfig.RuntimeParams["application_name"] = "busy"
	busy, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(busy.Close)
	ctx, calm := context.WithCancel(t.Context())
	var sessions sync.WaitGroup
	for range 2 {
		sessions.Go(func() { _, _ = busy.Exec(ctx, "select pg_sleep(600)") }) // until it is canceled
	}
	await(t, db, "select count(*) = 2 from pg_stat_activity where application_name = 'busy' and state = 'active' and datname = current_database()")
	s := watched(t, db, version2(), viewschema.Options{Throttle: func(t *viewschema.Throttle) { t.MaxSessions = 1 }}, &watcher{})
	done := make(chan error, 1)
	go func() {
		_, err := s.MigrateOnline(t.Context())
		done <- err
	}()
	await(t, db, "select exists (select from view_schema.projector_runs where ended_at is null and holding ~ ' sessions are active, and --max-sessions is 1$')")
	calm()
	sessions.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A rebuild that writes more WAL than it may finishes what it has begun, begins nothing more, and says why; with a larger limit it goes on.
// The first batch waits until the run has noticed, which it never does without what looks at the WAL.
func TestHoldsBackForWAL(t *testing.T) {
	t.Parallel()
	const why = "the server writes more WAL than --max-wal-rate allows"
	db := pgtest.Database(t, atVersion1)
	p := &pauser{t: t, db: db}
	var first sync.Once
	s := watched(t, db, version2(), viewschema.Options{Workers: 1, Throttle: func(t *viewschema.Throttle) { t.MaxWALRate = 1 }}, &watcher{
		before: func(sql string) {
			if strings.Contains(sql, "set events = $3") {
				first.Do(func() { p.holding(why) })
			}
		},
	})
	done := make(chan error, 1)
	go func() {
		_, err := s.MigrateOnline(t.Context())
		done <- err
	}()
	await(t, db, strings.Replace(underWay, "count(*)", "count(*) > 0", 1)+"done_at is not null")
	await(t, db, noTransaction)
	operator := open(t, db, version2())
	st, err := operator.Status(t.Context())
	if err != nil || st.Migration.State != replay.Building || len(st.AtWork) != 1 || st.AtWork[0].Holding != why {
		t.Errorf("%+v, %v", st, err)
	}
	if pending := scalar[int](t, db, underWay+"done_at is null"); pending == 0 {
		t.Error("the rebuild has gone on")
	}
	if _, err := operator.ChangeThrottle(t.Context(), func(t *viewschema.Throttle) { t.MaxWALRate = 1 << 40 }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	offline(t, s)
	verify(t, db, 2)
}

// A paused migration can be aborted, and cut over once it is built: the cutover is what a pause waits for.
func TestPausedIsCutOver(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	mustExec(t, db, openAccount)
	if _, err := s.ChangeThrottle(t.Context(), func(t *viewschema.Throttle) { t.Paused = true }); err != nil {
		t.Fatal(err)
	}
	// It does not say either that it holds back: who believed that would end the pause.
	_, end := hold(t, db, "lock table view_schema.accounts in access share mode")
	done := cutOver(t, s)
	await(t, db, "select seen_at > started_at + interval '100 ms' from view_schema.projector_runs order by id desc limit 1")
	if why := recent(t, s)[0].Holding; why != "" {
		t.Error(why)
	}
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	verify(t, db, 2)
}

// A limit ends with its migration: who follows it, and is paused, learns that it is over.
func TestPausedFollowEndsWithTheCutover(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	followed := make(chan error, 1)
	go func() { followed <- s.Follow(t.Context(), time.Millisecond, func(viewschema.Result) {}) }()
	await(t, db, "select exists (select from view_schema.projector_runs where command = 'migrate catchup' and ended_at is null)")
	if _, err := s.ChangeThrottle(t.Context(), func(t *viewschema.Throttle) { t.Paused = true }); err != nil {
		t.Fatal(err)
	}
	(&pauser{t: t, db: db}).holding("paused; ")
	offline(t, s)
	if err := <-followed; err != nil {
		t.Error(err)
	}
}

// What an operator has changed since the beginning stays: limits that a command began with are not set again.
func TestThrottleIsSetOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := watched(t, db, version2(), viewschema.Options{Throttle: func(t *viewschema.Throttle) { t.MaxSessions = 500 }}, &watcher{})
	online(t, s)
	if _, err := open(t, db, version2()).ChangeThrottle(t.Context(), func(t *viewschema.Throttle) { t.MaxSessions = 0 }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, err := s.Throttle(t.Context()); err != nil || now.MaxSessions != 0 {
		t.Errorf("%+v, %v", now, err)
	}
}

func TestThrottleIsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	nothing := func(*viewschema.Throttle) {}
	if _, err := s.ChangeThrottle(t.Context(), nothing); !errors.Is(err, viewschema.ErrState) {
		t.Errorf("without a migration: %v", err)
	}
	if _, err := s.Throttle(t.Context()); !errors.Is(err, viewschema.ErrState) {
		t.Errorf("without a migration: %v", err)
	}
	online(t, s)
	if now, err := s.Throttle(t.Context()); now != nil || err != nil {
		t.Errorf("%v, %v", now, err)
	}
	for name, change := range map[string]func(*viewschema.Throttle){
		"few events": func(t *viewschema.Throttle) { t.MaxEventsPerSecond = 99 },
		"negative":   func(t *viewschema.Throttle) { t.MaxLag = -1 },
	} {
		if _, err := s.ChangeThrottle(t.Context(), change); !errors.Is(err, viewschema.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	now, err := s.ChangeThrottle(t.Context(), func(t *viewschema.Throttle) {
		*t = viewschema.Throttle{MaxEventsPerSecond: 100, MaxLag: time.Second, MaxSessions: 3, MaxWALRate: 4 << 30}
	})
	if err != nil {
		t.Fatal(err)
	}
	if now.MaxEventsPerSecond != 100 || now.MaxLag != time.Second || now.MaxSessions != 3 || now.MaxWALRate != 4<<30 || now.ChangedBy == "" {
		t.Errorf("%+v", now)
	}
	if _, err := s.CatchUp(t.Context()); err != nil { // nothing of this holds it back
		t.Error(err)
	}
}

// A role that is not shown sessions and standbys would take a busy server for an idle one.
func TestThrottleOfWhatOurRoleDoesNotSee(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	online(t, open(t, db, version2()))
	role := "blinkered_" + strings.ReplaceAll(db.Config().ConnConfig.Database, "-", "_")
	mustExec(t, db, "create role "+role+" login; grant usage on schema view_schema to "+role+"; grant all on all tables in schema view_schema to "+role)
	t.Cleanup(func() {
		_, _ = db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+"; drop role "+role)
	})
	blinkered := connecting(t, db, func(c *pgx.ConnConfig) { c.User = role })
	s := open(t, blinkered, version2())
	_, err := s.ChangeThrottle(t.Context(), func(t *viewschema.Throttle) { t.MaxSessions = 5 })
	if !errors.Is(err, viewschema.ErrRefused) || !strings.HasSuffix(err.Error(), "type: grant pg_read_all_stats to "+role) {
		t.Error(err)
	}
	if _, err := s.ChangeThrottle(t.Context(), func(t *viewschema.Throttle) { t.MaxEventsPerSecond = 500 }); err != nil {
		t.Error(err)
	}
}
