package projections_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

func text(t *testing.T, pool *pgxpool.Pool, sql string) (s string) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func mustApply(t *testing.T, pool *pgxpool.Pool, run *projections.Run, wantRows int64, events ...*projections.Raw) {
	t.Helper()
	rows, err := apply(t.Context(), pool, run, events...)
	if err != nil {
		t.Fatal(err)
	}
	if rows != wantRows {
		t.Errorf("stored %d rows, want %d", rows, wantRows)
	}
}

func TestCatchUpWritesWhatChanged(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	run := set.CatchUp()
	mustApply(t, pool, run, 3,
		ev(1, ada, 1, "AccountOpened", `{"owner_name":"Ada","iban":"NL1"}`),
		ev(2, bob, 1, "AccountOpened", `{"owner_name":"Bob","iban":"NL2"}`),
		ev(3, ada, 2, "MoneyDeposited", `{"amount":5}`))

	versions := "select string_agg(owner || xmin, ' ' order by id) from accounts"
	before := text(t, pool, versions)
	touch := custom(func(s *projections.Store, m projections.Meta) error {
		return accounts.Update(s, m.AggregateID.UUID(), func(a *account) { a.Owner += "x"; a.Owner = strings.TrimSuffix(a.Owner, "x") })
	})
	same, err := projections.NewSet(bankEvents, touch)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, pool, same.CatchUp(), 0, ev(4, ada, 3, "MoneyDeposited", `{}`), ev(5, bob, 2, "MoneyDeposited", `{}`))
	if after := text(t, pool, versions); after != before {
		t.Errorf("rows that did not change were written: %s, then %s", before, after)
	}

	mustApply(t, pool, run, 1, ev(6, ada, 4, "AccountRenamed", `{"owner_name":"Ada L"}`), ev(7, ada, 5, "AccountRenamed", `{"owner_name":"Ada K"}`))
	mustApply(t, pool, run, 1, ev(8, bob, 3, "AccountClosed", `{}`))
	if got := text(t, pool, "select string_agg(concat(owner, iban, balance, version), ' ') from accounts"); got != "Ada KNL155" {
		t.Error(got)
	}
}

func TestCatchUpRecreates(t *testing.T) {
	t.Parallel()
	pool, set := bank(t, accountsProjector)
	run := set.CatchUp()
	open := func(position int64, iban string) *projections.Raw {
		return ev(position, ada, position, "AccountOpened", fmt.Sprintf(`{"iban":%q}`, iban))
	}
	mustApply(t, pool, run, 1, open(1, "NL1"))
	mustApply(t, pool, run, 2, ev(2, ada, 2, "AccountClosed", "{}"), open(3, "NL2")) // one row out, one in
	mustApply(t, pool, run, 0, ev(4, bob, 1, "AccountOpened", "{}"), ev(5, bob, 2, "AccountClosed", "{}"))
	if got := text(t, pool, "select string_agg(concat(iban, version), ' ') from accounts"); got != "NL23" {
		t.Error(got)
	}
}

// Two accounts swap their unique values in one batch: no order of updates could do that.
func TestCatchUpSwapsUniqueValues(t *testing.T) {
	t.Parallel()
	pool, _ := bank(t)
	setIBAN := custom(func(s *projections.Store, m projections.Meta) error {
		return accounts.Upsert(s, m.AggregateID.UUID(), func(a *account, _ bool) {
			a.ID, a.IBAN, a.Version = m.AggregateID.UUID(), string(rune(m.Sequence)), m.Position
		})
	})
	set, err := projections.NewSet(bankEvents, setIBAN)
	if err != nil {
		t.Fatal(err)
	}
	run := set.CatchUp()
	mustApply(t, pool, run, 2, ev(1, ada, 'a', "MoneyDeposited", "{}"), ev(2, bob, 'b', "MoneyDeposited", "{}"))
	mustApply(t, pool, run, 2,
		ev(3, ada, 'x', "MoneyDeposited", "{}"), ev(4, bob, 'a', "MoneyDeposited", "{}"), ev(5, ada, 'b', "MoneyDeposited", "{}"))
	if got := text(t, pool, "select string_agg(iban || version, ' ' order by id) from accounts"); got != "b5 a4" {
		t.Error(got)
	}
}

// Rows keep the numbers that the database gave them, also when they are stored again for a unique value.
func TestCatchUpKeepsNumbers(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, setupEnds)
	if _, err := pool.Exec(t.Context(), "create unique index on live.lines (total)"); err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	p := &projections.Projector{Name: "lines", Tables: []projections.Table{lines}, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[deposited]) error {
			next++
			key := lineKey{e.AggregateID.UUID(), int32(e.Data.Amount)}
			return lines.Upsert(s, key, func(l *line, _ bool) {
				if l.ID != 0 {
					t.Error("a handler sees what the database numbers")
				}
				l.Person, l.No, l.N, l.ID = key.Person, key.No, e.Position, 99
				if e.Sequence > 2 {
					l.Total = next
				} else {
					l.Total = int64(key.No)
				}
			})
		}),
	}}
	set, err := projections.NewSet(bankEvents, p)
	if err != nil {
		t.Fatal(err)
	}
	run := set.In("live", "").CatchUp()
	mustApply(t, pool, run, 2, ev(1, ada, 1, "MoneyDeposited", `{"amount":100}`), ev(2, ada, 2, "MoneyDeposited", `{"amount":200}`))
	mustApply(t, pool, run, 2, ev(3, ada, 1, "MoneyDeposited", `{"amount":100}`), ev(4, ada, 4, "MoneyDeposited", `{"amount":200}`))
	mustApply(t, pool, run, 1, ev(5, ada, 5, "MoneyDeposited", `{"amount":300}`))
	got := text(t, pool, "select string_agg(concat_ws('-', id, no, n, total), ' ' order by id) from live.lines")
	if got != "1-100-3-100 2-200-4-4 3-300-5-5" {
		t.Error(got)
	}
}

func TestCatchUpWritesTheTablesItIsIn(t *testing.T) {
	t.Parallel()
	pool, set := bank(t, accountsProjector)
	if _, err := pool.Exec(t.Context(), `create schema "Ada's Views"; create table "Ada's Views"."accounts_2" (like accounts including all)`); err != nil {
		t.Fatal(err)
	}
	mustApply(t, pool, set.In("Ada's Views", "_2").CatchUp(), 1, ev(1, ada, 1, "AccountOpened", "{}"))
	mustApply(t, pool, set.In("Ada's Views", "_2").Rebuild(), 1, ev(2, bob, 1, "AccountOpened", `{"iban":"1"}`))
	if got := text(t, pool, `select concat((select count(*) from "Ada's Views".accounts_2), ' ', (select count(*) from accounts))`); got != "2 0" {
		t.Error(got)
	}
	_, err := apply(t.Context(), pool, set.In("Ada's Views", "_2").Rebuild(), ev(3, bob, 1, "AccountOpened", "{}"))
	if err == nil || !strings.HasPrefix(err.Error(), "Ada's Views.accounts_2: ERROR: duplicate key value") || !strings.Contains(err.Error(), "line 1") {
		t.Error(err)
	}
}

func TestCatchUpNoticesOthers(t *testing.T) {
	t.Parallel()
	pool, set := bank(t, accountsProjector)
	run := set.CatchUp()
	mustApply(t, pool, run, 1, ev(1, ada, 1, "AccountOpened", "{}"))
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if err := run.Begin(t.Context(), tx, []projections.ID{projections.UUID(ada)}); err != nil {
			return err
		}
		if err := run.Apply(ev(2, ada, 2, "MoneyDeposited", `{"amount":1}`)); err != nil {
			return err
		}
		if _, err := pool.Exec(t.Context(), "delete from accounts"); err != nil {
			return err
		}
		_, err := run.Flush()
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "accounts: 1 of 1 rows are not as they were loaded") {
		t.Error(err)
	}
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if err := run.Begin(t.Context(), tx, []projections.ID{projections.UUID(ada)}); err != nil {
			return err
		}
		return run.Apply(ev(3, bob, 1, "AccountOpened", "{}"))
	})
	if err == nil || !strings.Contains(err.Error(), "aggregate "+bob.String()+" is not among those that the batch began with") {
		t.Error(err)
	}
}

// A handler cannot go on when its rows could not be loaded, even if it drops the error.
func TestLoadErrorsStick(t *testing.T) {
	t.Parallel()
	deaf := custom(func(s *projections.Store, _ projections.Meta) error {
		_, _, _ = accounts.Find(s, ada)
		return nil
	})
	pool, set := bank(t, deaf)
	run := set.CatchUp()
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := run.Begin(ctx, tx, []projections.ID{projections.UUID(ada)}); err != nil {
			return err
		}
		cancel()
		return run.Apply(ev(1, ada, 1, "MoneyDeposited", `{}`))
	})
	if err == nil || !strings.Contains(err.Error(), "accounts: ") || !strings.Contains(err.Error(), "context canceled") {
		t.Error(err)
	}
}

// One run, batch after batch of very different sizes: nothing of one is left for the next.
func TestRunForgets(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	for i, run := range []*projections.Run{set.Rebuild(), set.CatchUp()} {
		for round, n := range []int{1, 6000, 3} {
			id := uuid.UUID{byte(i + 1), byte(round)}
			events := []*projections.Raw{ev(0, id, 0, "AccountOpened", fmt.Sprintf(`{"iban":"%d %d"}`, i, round))}
			for j := range n {
				events = append(events, ev(int64(i*100000+round*10000+j), id, int64(j+1), "MoneyDeposited", `{"amount":1}`))
			}
			mustApply(t, pool, run, int64(n)+1, events...)
		}
	}
	if got := text(t, pool, "select concat(sum(balance), ' ', max(balance)) from transactions"); got != "36006014 6000" {
		t.Error(got)
	}
}

// Forgetting an aggregate leaves the rows of the others, and what it is told anew makes its rows again.
func TestForget(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	history := func(id uuid.UUID, position int64) []*projections.Raw {
		return []*projections.Raw{
			ev(position, id, 1, "AccountOpened", fmt.Sprintf(`{"owner_name":"Ada","iban":%q}`, id)),
			ev(position+1, id, 2, "MoneyDeposited", `{"amount":3}`),
		}
	}
	run := set.CatchUp()
	if _, err := apply(t.Context(), pool, run, append(history(ada, 1), history(bob, 3)...)...); err != nil {
		t.Fatal(err)
	}
	const contents = "select (select string_agg(id || ' ' || balance, ', ' order by id) from accounts) || '; ' || (select string_agg(account_id::text, ', ' order by account_id) from transactions)"
	before := text(t, pool, contents)
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if err := run.Begin(t.Context(), tx, []projections.ID{projections.UUID(ada)}); err != nil {
			return err
		}
		rows, err := run.Forget()
		if rows != 2 {
			t.Errorf("%d rows", rows)
		}
		return err
	})
	if got := text(t, pool, contents); err != nil || got != bob.String()+" 3; "+bob.String() {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := apply(t.Context(), pool, run, history(ada, 1)...); err != nil {
		t.Fatal(err)
	}
	if got := text(t, pool, contents); got != before {
		t.Errorf("got %s, want %s", got, before)
	}
}

// A type that is changed while a batch begins is waited for, and seen: binary COPY would take the old one's bytes for the new one's.
func TestBeginWaitsForAnAlter(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(*projections.Set) *projections.Run{
		"rebuild": (*projections.Set).Rebuild, "catch-up": (*projections.Set).CatchUp,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, set := bank(t, transactionsProjector)
			alter, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = alter.Rollback(context.WithoutCancel(t.Context())) }()
			if _, err := alter.Exec(t.Context(), "alter table transactions alter amount type float8, alter balance type float8"); err != nil {
				t.Fatal(err)
			}
			applied := make(chan error, 1)
			go func() {
				_, err := apply(t.Context(), pool, run(set), ev(1, ada, 1, "MoneyDeposited", `{"amount":7}`))
				applied <- err
			}()
			for text(t, pool, "select exists (select from pg_locks where relation = 'transactions'::regclass and not granted)::text") != "true" {
				runtime.Gosched()
			}
			if err := alter.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-applied; err != nil {
				t.Fatal(err)
			}
			if got := text(t, pool, "select string_agg(concat(amount, ' ', balance), ', ') from transactions"); got != "7 7" {
				t.Error(got)
			}
		})
	}
}
