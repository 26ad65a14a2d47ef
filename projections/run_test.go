package projections_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

var (
	ada = uuid.MustParse("01020304-0506-0708-090a-0b0c0d0e0f10")
	bob = uuid.MustParse("b0b00000-0000-4000-8000-000000000000")
)

// ev is an event of an account.
func ev(position int64, id uuid.UUID, sequence int64, name, data string) *projections.Raw {
	return &projections.Raw{
		Position: position, AggregateID: projections.UUID(id), Sequence: sequence, Type: []byte(name), Data: []byte(data),
		Time: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC),
	}
}

type beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// apply runs a batch in a transaction, which is committed if all went well.
func apply(ctx context.Context, db beginner, run *projections.Run, events ...*projections.Raw) (rows int64, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var ids []projections.ID
		for _, e := range events {
			ids = append(ids, e.AggregateID)
		}
		if err := run.Begin(ctx, tx, ids); err != nil {
			return err
		}
		for _, e := range events {
			if err := run.Apply(e); err != nil {
				return err
			}
		}
		rows, err = run.Flush()
		return err
	})
	return rows, err
}

func bank(t *testing.T, ps ...*projections.Projector) (*pgxpool.Pool, *projections.Set) {
	t.Helper()
	if ps == nil {
		ps = []*projections.Projector{accountsProjector, transactionsProjector}
	}
	set, err := projections.NewSet(bankEvents, ps...)
	if err != nil {
		t.Fatal(err)
	}
	return pgtest.Database(t, setupBank), set
}

// custom is a projector whose handler of deposits is fn.
func custom(fn func(s *projections.Store, m projections.Meta) error) *projections.Projector {
	return &projections.Projector{
		Name:   "custom",
		Tables: []projections.Table{accounts},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[deposited]) error { return fn(s, e.Meta) }),
		},
	}
}

// steadyJSON undoes that the JSON package words its errors differently in each process, so that nobody relies on them.
var steadyJSON = strings.NewReplacer("\u00a0", " ", "unable to", "cannot")

func TestErrorsReadWell(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		and        string
		is         error
		projector  *projections.Projector
		event      *projections.Raw
	}{
		{
			name: "no row", is: projections.ErrNotFound, projector: accountsProjector,
			event: ev(7, ada, 3, "AccountRenamed", `{"owner_name":"Ada"}`),
			want: "projector accounts: event 7 (AccountRenamed, aggregate 01020304-0506-0708-090a-0b0c0d0e0f10, sequence 3): " +
				"accounts 01020304-0506-0708-090a-0b0c0d0e0f10: no such row",
		},
		{
			name: "payload", projector: accountsProjector,
			event: ev(9, ada, 4, "MoneyDeposited", `{"amount":"12"}`),
			want: "event 9 (MoneyDeposited, aggregate 01020304-0506-0708-090a-0b0c0d0e0f10, sequence 4): " +
				`decode into projections_test.deposited: json: cannot unmarshal JSON string into Go int64 within "/amount"`,
		},
		{
			name: "duplicate member", projector: accountsProjector,
			event: ev(9, ada, 4, "MoneyDeposited", `{"amount":1,"amount":2}`),
			want:  `duplicate object member name "amount"`,
		},
		{
			name: "foreign row", is: projections.ErrForeign,
			projector: custom(func(s *projections.Store, _ projections.Meta) error { return accounts.Create(s, account{ID: bob}) }),
			want:      "accounts b0b00000-0000-4000-8000-000000000000: the row belongs to another aggregate; a projector sees one aggregate at a time: declare",
		},
		{
			name: "exists", is: projections.ErrExists,
			projector: custom(func(s *projections.Store, _ projections.Meta) error {
				return accounts.Create(s, account{ID: ada}, account{ID: ada})
			}),
			want: "accounts 01020304-0506-0708-090a-0b0c0d0e0f10: a row with this key exists",
		},
		{
			name: "key", is: projections.ErrKey,
			projector: custom(func(s *projections.Store, _ projections.Meta) error {
				return errors.Join(accounts.Create(s, account{ID: ada}), accounts.Update(s, ada, func(a *account) { a.ID = bob }))
			}),
			want: "the key of a row cannot change",
		},
		{
			name: "nested", is: projections.ErrNested,
			projector: custom(func(s *projections.Store, _ projections.Meta) (err error) {
				_ = accounts.Create(s, account{ID: ada})
				_ = accounts.Update(s, ada, func(*account) { err = accounts.Delete(s, ada) })
				return err
			}),
			want: "accounts: a function that changes a row cannot use its table",
		},
		{
			name: "not the owner", is: projections.ErrOwner,
			projector: custom(func(s *projections.Store, _ projections.Meta) error {
				_, _, err := byAccount.Last(s, ada)
				return err
			}),
			want: "transactions: the table is not among the projector's tables: a table has one owner, and only it sees the rows",
		},
		{
			name: "panic",
			projector: custom(func(_ *projections.Store, m projections.Meta) error {
				return []error{}[m.Sequence]
			}),
			want: "aggregate 01020304-0506-0708-090a-0b0c0d0e0f10, sequence 1): panic: runtime error: index out of range [1] with length 0 (",
			and:  "run_test.go:",
		},
		{
			name: "wrapped", is: context.Canceled,
			projector: custom(func(*projections.Store, projections.Meta) error { return context.Canceled }),
			want:      "projector custom: event 1 (MoneyDeposited, aggregate 01020304-0506-0708-090a-0b0c0d0e0f10, sequence 1): context canceled",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool, set := bank(t, c.projector)
			if c.event == nil {
				c.event = ev(1, ada, 1, "MoneyDeposited", "{}")
			}
			for name, run := range map[string]*projections.Run{"rebuild": set.Rebuild(), "catch-up": set.CatchUp()} {
				_, err := apply(t.Context(), pool, run, c.event)
				if err == nil {
					t.Fatalf("%s: no error", name)
				}
				event, ok := errors.AsType[*projections.EventError](err)
				if !ok || event.Position != c.event.Position || c.is != nil && !errors.Is(err, c.is) {
					t.Errorf("%s: not the error it should be: %#v", name, err)
				}
				text := steadyJSON.Replace(err.Error())
				if !strings.Contains(text, c.want) || !strings.Contains(text, c.and) {
					t.Errorf("%s:\ngot  %s\nwant %s %s", name, text, c.want, c.and)
				}
			}
		})
	}
}

func TestRunAfterError(t *testing.T) {
	t.Parallel()
	dropped := custom(func(s *projections.Store, m projections.Meta) error {
		if m.Position == 1 {
			return errors.New("no")
		}
		return accounts.Create(s, account{ID: m.AggregateID.UUID()})
	})
	pool, set := bank(t, dropped)
	run := set.Rebuild()
	if err := run.Apply(ev(1, ada, 1, "MoneyDeposited", "{}")); err == nil || !strings.Contains(err.Error(), "Begin") {
		t.Error("applied before Begin:", err)
	}
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if err := run.Begin(t.Context(), tx, nil); err != nil {
			return err
		}
		first := run.Apply(ev(1, ada, 1, "MoneyDeposited", "{}"))
		if first == nil {
			return errors.New("the handler's error is lost")
		}
		if err := run.Apply(ev(2, ada, 2, "MoneyDeposited", "{}")); !errors.Is(err, first) {
			return fmt.Errorf("went on after an error: %w", err)
		}
		if _, err := run.Flush(); !errors.Is(err, first) {
			return fmt.Errorf("stored after an error: %w", err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if n, err := apply(t.Context(), pool, run, ev(2, ada, 2, "MoneyDeposited", "{}"), ev(3, bob, 1, "Nobody's", "{")); n != 1 || err != nil {
		t.Errorf("the next batch stored %d rows: %v", n, err)
	}
	if _, err := run.Flush(); err == nil {
		t.Error("flushed twice")
	}
}

func TestBeginComparesTables(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	for _, c := range []struct{ sql, want string }{
		{"drop table transactions", `lock the tables: ERROR: relation "transactions" does not exist`},
		{"alter table accounts drop column owner", "table accounts: no column owner, which is field Owner of projections_test.account"},
		{"alter table accounts add region text not null", "column region is not null and has no default, and projections_test.account has no field for it"},
		{"alter table accounts alter balance type inet using null", "column balance is inet, which field Balance of projections_test.account, a int64, cannot be stored in"},
		{"alter table accounts drop column version, add version bigint generated always as (1) stored", "column version is computed by the database"},
		{"alter table accounts add region text not null default '', add more text", ""},
		{"create domain d as bigint not null default 7; alter table accounts add x d", ""},
	} {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), c.sql); err != nil {
			t.Fatal(err)
		}
		err = set.Rebuild().Begin(t.Context(), tx, nil)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s:\ngot  %v\nwant %s", c.sql, err, c.want)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := set.Rebuild().Begin(t.Context(), tx, nil); err == nil || !strings.Contains(err.Error(), "not in a transaction") {
			t.Errorf("begun outside of a transaction: %v", err)
		}
	}
}

// A column may change its type below a pooled connection, which remembers the old one.
func TestBeginSeesNewTypes(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	run := set.Rebuild()
	for i, sql := range []string{"select 1", "alter table accounts alter balance type int, alter version type smallint", "alter table accounts alter balance type numeric"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		id := uuid.UUID{byte(i)}
		if _, err := apply(t.Context(), conn, run,
			ev(int64(3*i+1), id, 1, "AccountOpened", fmt.Sprintf(`{"iban":"%d"}`, i)),
			ev(int64(3*i+2), id, 2, "MoneyDeposited", `{"amount":70000}`)); err != nil {
			t.Fatal(err)
		}
	}
	var wrong int
	if err := pool.QueryRow(t.Context(), "select count(*) from accounts where balance <> 70000 or version <> 2").Scan(&wrong); err != nil || wrong > 0 {
		t.Errorf("%d wrong rows, %v", wrong, err)
	}
	_, err = apply(t.Context(), conn, run, ev(90, bob, 40000, "AccountOpened", `{}`))
	want := "accounts b0b00000-0000-4000-8000-000000000000: column version: 40000 does not fit into smallint"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// A rebuild stores rows when there are some megabytes of them, if the connection is free then, so that its memory does not
// depend on the size of the batch. Flush counts them all.
func TestRebuildStoresOnTheWay(t *testing.T) {
	t.Parallel()
	db, set := bank(t)
	const accounts = 40
	long := strings.Repeat("x", 256<<10)
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	run := set.Rebuild()
	if err := run.Begin(t.Context(), tx, nil); err != nil {
		t.Fatal(err)
	}
	replay := func(from int) {
		for i := from; i < from+accounts/2; i++ {
			id := uuid.NewSHA1(uuid.NameSpaceOID, []byte{byte(i)})
			if err := run.Apply(ev(int64(i), id, 1, "AccountOpened", `{"owner_name":"`+long+`","iban":"`+fmt.Sprint(i)+`"}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored := func() (n int) {
		if err := tx.QueryRow(t.Context(), "select count(*) from accounts").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	busy, err := tx.Query(t.Context(), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	replay(0)
	busy.Close()
	if n := stored(); n != 0 {
		t.Errorf("%d rows were stored on a busy connection", n)
	}
	replay(accounts / 2)
	if n := stored(); n < accounts/2 {
		t.Errorf("%d rows are stored before Flush", n)
	}
	if rows, err := run.Flush(); err != nil || rows != accounts || stored() != accounts {
		t.Errorf("Flush says %d rows, and there are %d; %v", rows, stored(), err)
	}
}
