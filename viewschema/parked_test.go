package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// poisonedStore is a filled store that keeps what its poisoned events were.
func poisonedStore(ctx context.Context, conn *pgx.Conn) error {
	if err := filledStore(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "create table unspoiled (position bigint primary key, data jsonb not null)")
	return err
}

// poison spoils an event of so many aggregates that have none which is spoiled, above a position, and returns their ids.
func poison(t *testing.T, db *pgxpool.Pool, aggregates int, above int64) []string {
	t.Helper()
	rows, _ := db.Query(t.Context(), `
		with spoiled as (
			select distinct on (aggregate_id) position, aggregate_id, data
			from events
			where position > $2 and aggregate_id not in (select aggregate_id from events join unspoiled using (position))
			order by aggregate_id, random()
		), picked as (
			select * from spoiled order by random() limit $1
		), kept as (
			insert into unspoiled select position, data from picked
		), changed as (
			update events e set data = '[]' from picked p where p.position = e.position
		)
		select aggregate_id::text from picked`, aggregates, above)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) != aggregates {
		t.Fatalf("poisoned %d, %v", len(ids), err)
	}
	return ids
}

// mend undoes poison.
func mend(t *testing.T, db *pgxpool.Pool, aggregates []string) {
	t.Helper()
	mustExec(t, db, `
		update events e set data = u.data from unspoiled u where u.position = e.position and e.aggregate_id::text = any ($1)`, aggregates)
}

// byAggregate is version 2 without the transfers, from whose order no event can be left out.
func byAggregate() viewschema.Definition {
	d := bank.WithoutTransfers()
	d.Versions = d.Versions.UpTo(2)
	return d
}

// deposit appends an event to open accounts.
func deposit(t *testing.T, db *pgxpool.Pool, accounts int) {
	t.Helper()
	mustExec(t, db, `
		insert into events (aggregate_id, sequence_number, event_type, data)
		select aggregate_id, max(sequence_number) + 1, 'MoneyDeposited', '{"amount": 7, "counterparty": "Ada", "description": "late"}'
		from events
		group by aggregate_id
		having not bool_or(event_type = 'AccountClosed')
		order by random()
		limit $1`, accounts)
}

// listed are the ids of the parked aggregates.
func listed(t *testing.T, s *viewschema.Schema) (ids []string) {
	t.Helper()
	parked, err := s.Parked(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parked {
		if p.Error == "" || p.Position == 0 || p.Sequence == 0 || p.Type == "" {
			t.Errorf("parked, and does not say why: %+v", p)
		}
		ids = append(ids, p.Aggregate)
	}
	slices.Sort(ids)
	return ids
}

func sorted(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return all
}

// interrupted runs a step whose process dies at a commit drawn at random, again and again until it lives.
func interrupted(t *testing.T, random *rand.Rand, step func(ctx context.Context) error) {
	t.Helper()
	for {
		ctx, die := context.WithCancel(t.Context())
		var left atomic.Int64
		left.Store(random.Int64N(30))
		err := step(pg.WithFault(ctx, func(pg.Moment, pg.Point) {
			if left.Add(-1) == 0 {
				die()
			}
		}))
		die()
		if err == nil {
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}

// Whatever is poisoned, and whenever the process dies: the new tables are those of a store without the parked aggregates, and
// what is mended and retried is as if it had never been parked.
func TestPark(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			db := pgtest.Database(t, poisonedStore)
			with := func(o viewschema.Options) *viewschema.Schema {
				o.Log, o.Workers = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel), 2+int(seed%3)
				s, err := viewschema.Open(db, v1.Definition, o) // which adds nothing up
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			parking, stopping := with(viewschema.Options{OnError: replay.Park}), with(viewschema.Options{})
			early := poison(t, db, 1+random.IntN(20), 0)
			if _, err := stopping.MigrateOnline(t.Context()); err == nil || !strings.Contains(err.Error(), "--on-error=park") {
				t.Fatalf("stopping: %v", err)
			}
			interrupted(t, random, func(ctx context.Context) error { _, err := parking.MigrateOnline(ctx); return err })
			if got := listed(t, parking); !slices.Equal(got, sorted(early)) {
				t.Fatalf("parked %v, poisoned %v", got, early)
			}

			// What is parked stays out, and what has rows loses them.
			deposit(t, db, 200)
			late := poison(t, db, 1+random.IntN(5), 10_000)
			if _, err := stopping.CatchUp(t.Context()); err == nil || !strings.Contains(err.Error(), "migrate catchup --on-error=park") {
				t.Fatalf("stopping: %v", err)
			}
			interrupted(t, random, func(ctx context.Context) error { _, err := parking.CatchUp(ctx); return err })
			if got := listed(t, parking); !slices.Equal(got, sorted(early, late)) {
				t.Fatalf("parked %v, poisoned %v and %v", got, early, late)
			}

			if _, err := stopping.MigrateOffline(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "--with-parked") {
				t.Errorf("the cutover: %v", err)
			}
			plan, err := stopping.Plan(t.Context())
			if err != nil || len(plan.Hazards) != 1 || plan.Hazards[0].Blocks != viewschema.StageOffline {
				t.Errorf("plan: %+v, %v", plan.Hazards, err)
			}

			mended := sorted(early[:len(early)/2], late[:1])
			mend(t, db, mended)
			deposit(t, db, 50)
			retried, err := stopping.RetryParked(t.Context(), mended...)
			if err != nil || slices.ContainsFunc(retried, func(r viewschema.Retried) bool { return r.Error != "" }) {
				t.Fatalf("retry: %+v, %v", retried, err)
			}
			left := sorted(early[len(early)/2:], late[1:])
			retried, err = stopping.RetryParked(t.Context())
			if err != nil || len(retried) != len(left) || slices.ContainsFunc(retried, func(r viewschema.Retried) bool { return r.Error == "" }) {
				t.Errorf("retry of what is not mended: %+v, %v", retried, err)
			}
			if got := listed(t, stopping); !slices.Equal(got, left) {
				t.Fatalf("parked %v, poisoned %v", got, left)
			}
			deposit(t, db, 50)
			offline(t, with(viewschema.Options{WithParked: true}))
			mustExec(t, db, "delete from events where aggregate_id::text = any ($1)", left)
			verify(t, db, 1)
			if got := listed(t, stopping); !slices.Equal(got, left) {
				t.Errorf("after the cutover, %v are listed", got)
			}
			if _, err := stopping.RetryParked(t.Context()); !errors.Is(err, viewschema.ErrState) || !strings.Contains(err.Error(), "new version") {
				t.Errorf("retry after the cutover: %v", err)
			}
		})
	}
}

// What a parked aggregate would have added to the rows of others is not in them, until it is retried. Once it is in them, it cannot be
// taken out, and a catch-up stops. Seen to fail with the batch not replayed anew.
func TestParkWithTotals(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, poisonedStore)
	s, err := viewschema.Open(db, byAggregate(), viewschema.Options{OnError: replay.Park, WithParked: true})
	if err != nil {
		t.Fatal(err)
	}
	early := poison(t, db, 12, 0)
	online(t, s)
	deposit(t, db, 200)
	late := poison(t, db, 1, 10_000)
	if _, err := s.CatchUp(t.Context()); !errors.Is(err, projections.ErrTotals) || !strings.Contains(err.Error(), "branch_totals_2") || !strings.Contains(err.Error(), late[0]) {
		t.Errorf("a catch-up: %v", err)
	}
	if got := listed(t, s); !slices.Equal(got, sorted(early)) {
		t.Errorf("parked %v, poisoned %v", got, early)
	}
	mend(t, db, sorted(early[:6], late))
	if retried, err := s.RetryParked(t.Context(), early[:6]...); err != nil || slices.ContainsFunc(retried, func(r viewschema.Retried) bool { return r.Error != "" }) {
		t.Fatalf("retry: %+v, %v", retried, err)
	}
	offline(t, s)
	mustExec(t, db, "delete from events where aggregate_id::text = any ($1)", early[6:])
	verify(t, db, 2)
}

// What is left out of a table stays listed for as long as the table is live, whatever other tables a later version replays. A
// rollback cannot know which tables it is missing in. A replay of everything makes an end of it.
func TestParkedStayListed(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, poisonedStore)
	versions := projector.Versions{1: {projector.Replay(v1.Accounts, bank.Transactions)}, 2: {projector.Replay(bank.Transactions)}}
	at := func(version int, o viewschema.Options) *viewschema.Schema {
		d := v1.Definition
		d.Versions = versions.UpTo(version)
		s, err := viewschema.Open(db, d, o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ids := poison(t, db, 2, 0)
	first, second := at(1, viewschema.Options{OnError: replay.Park, WithParked: true}), at(2, viewschema.Options{OnError: replay.Park, WithParked: true})
	for _, s := range []*viewschema.Schema{first, second} {
		online(t, s)
		offline(t, s)
		if got := listed(t, s); !slices.Equal(got, sorted(ids)) {
			t.Errorf("listed are %v, poisoned %v", got, ids)
		}
	}
	if _, err := first.Rollback(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "version 1 left out 2 parked aggregates") {
		t.Errorf("a rollback: %v", err)
	}
	mend(t, db, ids)
	if _, err := second.ReplayAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, second); len(got) > 0 {
		t.Errorf("after a replay of everything, %v are listed", got)
	}
	verify(t, db, 1)
}

// So many aggregates that the code must be wrong are not parked.
func TestParkHasABound(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"online", "catchup"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, poisonedStore)
			s, err := viewschema.Open(db, v1.Definition, viewschema.Options{OnError: replay.Park, MaxParked: 3})
			if err != nil {
				t.Fatal(err)
			}
			step := steps(s)["online"]
			if kind == "catchup" {
				online(t, s)
				deposit(t, db, 100)
				poison(t, db, 4, 10_000)
				step = steps(s)["catchup"]
			} else {
				poison(t, db, 4, 0)
			}
			if err := step(t.Context()); err == nil || !errors.Is(err, replay.ErrMostParked) || strings.Contains(err.Error(), "--on-error") || !strings.Contains(err.Error(), "--max-parked") {
				t.Errorf("got %v", err)
			}
			if got := listed(t, s); len(got) > 3 {
				t.Errorf("%d are parked", len(got))
			}
		})
	}
}

// An event that is poisoned after the last catch-up ends the cutover, and nothing has changed.
func TestCutoverDoesNotPark(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, poisonedStore)
	s, err := viewschema.Open(db, byAggregate(), viewschema.Options{OnError: replay.Park, WithParked: true})
	if err != nil {
		t.Fatal(err)
	}
	online(t, s)
	deposit(t, db, 10)
	ids := poison(t, db, 1, 10_000)
	if _, err := s.MigrateOffline(t.Context()); err == nil || !strings.Contains(err.Error(), ids[0]) {
		t.Errorf("the cutover: %v", err)
	}
	if got := listed(t, s); len(got) > 0 {
		t.Errorf("parked: %v", got)
	}
	mend(t, db, ids)
	offline(t, s)
	verify(t, db, 2)
}

// What cannot be retried is said before anything is.
func TestRetryIsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, poisonedStore)
	s, err := viewschema.Open(db, byAggregate(), viewschema.Options{OnError: replay.Park})
	if err != nil {
		t.Fatal(err)
	}
	if parked := listed(t, s); parked != nil {
		t.Errorf("parked before there is anything: %v", parked)
	}
	ids := poison(t, db, 2, 0)
	online(t, s)
	mend(t, db, ids)
	for name, test := range map[string]struct {
		ids  []string
		want error
	}{
		"not parked": {[]string{ids[0], "00000000-0000-4000-8000-000000000001"}, replay.ErrNotParked},
		"no id":      {[]string{ids[0], "Ada"}, viewschema.ErrRefused},
	} {
		if _, err := s.RetryParked(t.Context(), test.ids...); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d := byAggregate()
	changed := *d.Projectors[0]
	changed.Revision++
	d.Projectors = slices.Clone(d.Projectors)
	d.Projectors[0] = &changed
	if _, err := open(t, db, d).RetryParked(t.Context()); !errors.Is(err, viewschema.ErrChanged) {
		t.Errorf("with other code: %v", err)
	}
	if got := listed(t, s); len(got) != 2 {
		t.Errorf("parked: %v", got)
	}
	if retried, err := s.RetryParked(t.Context()); err != nil || len(retried) != 2 {
		t.Errorf("retried %+v, %v", retried, err)
	}
	offline(t, s)
	verify(t, db, 2)
}
