package projections_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

// Catch-ups and live transactions that add to rows in all orders, with code that declares the tables in another order: one
// waits for the other, and none is a deadlock's victim. This was seen to fail with the order by left out, which leaves rows
// in the order of a hash table that is as large as there are keys, and with the tables in the order of their declaration.
func TestTotalsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, setupTotals)
	ctx := t.Context()
	reversed := *totalsProjector
	reversed.Tables = []projections.Table{counts, tallies}
	var sets []*projections.Set
	for _, p := range []*projections.Projector{totalsProjector, &reversed} {
		set, err := projections.NewSet(totalsEvents, p)
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, set.In("live", ""))
	}
	const workers, rounds, keys = 4, 80, 300
	work := func(worker int) error {
		random, set := rand.New(rand.NewPCG(uint64(worker), 0)), sets[worker%2]
		run := set.CatchUp()
		for i := range int64(rounds) {
			e := projections.New{
				Meta: projections.Meta{Position: i + 1, AggregateID: projections.UUID(uuid.UUID{byte(worker)}), Sequence: i + 1, Type: "Added"},
				Data: added{[]tally{{Place: "all"}}},
			}
			for _, n := range random.Perm(keys)[:1<<random.IntN(8)] {
				e.Data = added{append(e.Data.(added).Rows, tally{Place: fmt.Sprint(n)})}
			}
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				if worker < workers/2 {
					return applyNew(ctx, tx, run, []projections.New{e})
				}
				return set.Project(ctx, projections.Pgx(tx), e)
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	done := make(chan error, workers)
	for i := range workers {
		go func() { done <- work(i) }()
	}
	for range workers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := text(t, pool, "select n::text from live.counts where place = 'all'"); got != fmt.Sprint(workers*rounds) {
		t.Errorf("all were counted %s times", got)
	}
}

// A batch with more keys than a rebuild keeps in memory lets go of them, and comes back to some.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	type places struct{ From, N int }
	pool := pgtest.Database(t, setupTotals)
	set, err := projections.NewSet([]projections.EventType{projections.JSON[places]("Added")}, &projections.Projector{
		Name: "counts", Tables: []projections.Table{counts}, Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[places]) error {
				for i := range e.Data.N {
					if err := counts.Add(s, count{Place: fmt.Sprint(e.Data.From + i)}); err != nil {
						return err
					}
				}
				return nil
			}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	const aggregates, keys = 6, 20_000 // half of which the next one adds to as well
	var events []projections.New
	for i := range aggregates {
		events = append(events, projections.New{
			Meta: projections.Meta{Position: int64(i + 1), AggregateID: projections.UUID(uuid.UUID{byte(i)}), Sequence: 1, Type: "Added"},
			Data: places{keys / 2 * i, keys},
		})
	}
	rebuildParts(t, pool, set.In("parts", ""), [][]projections.New{events})
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return applyNew(t.Context(), tx, set.In("direct", "").Rebuild(), events)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, schema := range []string{"parts", "direct"} {
		got := text(t, pool, "select string_agg(format('%s of %s', count, n), ' ' order by n) from (select n, count(*) from "+schema+".counts group by n) s")
		if want := fmt.Sprintf("%d of 1 %d of 2", keys, keys/2*(aggregates-1)); got != want {
			t.Errorf("%s: %s, want %s", schema, got, want)
		}
	}
}

// What batches leave may be larger than the column, as long as the sum is not.
func TestPartialSumsAreWide(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, setupTotals)
	set, err := projections.NewSet(totalsEvents, totalsProjector)
	if err != nil {
		t.Fatal(err)
	}
	var batches [][]projections.New
	for i, sum := range []int32{1 << 20, -1<<20 - 7} {
		batches = append(batches, []projections.New{{
			Meta: projections.Meta{Position: int64(i + 1), AggregateID: projections.UUID(uuid.UUID{byte(i)}), Type: "Added"},
			Data: added{[]tally{{Place: "a", Sum: sum}}},
		}})
	}
	rebuildParts(t, pool, set.In("parts", ""), batches)
	if sum := text(t, pool, "select sum::text from parts.tallies"); sum != "-7" {
		t.Error(sum)
	}
}

// A batch of a rebuild holds no lock that another one waits for, however hot the row that both add to.
func TestHotRowHoldsNobodyOff(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, setupTotals)
	set, err := projections.NewSet(totalsEvents, totalsProjector)
	if err != nil {
		t.Fatal(err)
	}
	set = set.In("parts", "")
	ctx := t.Context()
	for _, target := range set.Totals() {
		if _, err := pool.Exec(ctx, target.CreatePartial()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		tx, err := pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // all are open until the last one is done
		if _, err := tx.Exec(ctx, "set local lock_timeout = '1s'"); err != nil {
			t.Fatal(err)
		}
		err = applyNew(ctx, tx, set.RebuildPartial(), []projections.New{{
			Meta: projections.Meta{Position: int64(i + 1), AggregateID: projections.UUID(uuid.UUID{byte(i)}), Sequence: 1, Type: "Added"},
			Data: added{[]tally{{Place: "hot", Sum: 1}}},
		}})
		if err != nil {
			t.Fatalf("batch %d: %v", i, err)
		}
	}
	if waits := text(t, pool, "select count(*)::text from pg_locks l join pg_stat_activity a using (pid) where not l.granted and a.datname = current_database()"); waits != "0" {
		t.Errorf("%s locks are waited for", waits)
	}
}

// Rows of a transaction's own aggregates are written before those that others wait for.
func TestTotalsAreWrittenLast(t *testing.T) {
	t.Parallel()
	pool, _ := bank(t)
	if _, err := pool.Exec(t.Context(), `
		create table counts (place text primary key, n bigint not null);
		create function order_of_writes() returns trigger language plpgsql as $$
			begin
				if (select sum(n) from counts) > (select count(*) from accounts) then raise 'accounts after counts'; end if;
				return new;
			end $$;
		create trigger late before insert on accounts for each row execute function order_of_writes()`); err != nil {
		t.Fatal(err)
	}
	first := &projections.Projector{Name: "first", Tables: []projections.Table{counts}, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[begun]) error {
			return counts.Add(s, count{Place: "here"})
		}),
	}}
	second := &projections.Projector{Name: "second", Tables: []projections.Table{accounts}, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[begun]) error {
			return accounts.Create(s, account{ID: e.AggregateID.UUID(), IBAN: fmt.Sprint(e.Data.N)})
		}),
	}}
	set, err := projections.NewSet([]projections.EventType{projections.JSON[begun]("Opened")}, first, second)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return set.Project(t.Context(), projections.Pgx(tx), projections.New{
				Meta: projections.Meta{Position: 1, AggregateID: projections.UUID(uuid.UUID{byte(i)}), Sequence: 1}, Data: begun{i},
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
