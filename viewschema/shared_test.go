package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// wrongBranch is a row that accounts share, declared as if it were the row of one.
type wrongBranch struct {
	bun.BaseModel `bun:"table:branches"`
	Name          string    `bun:"name,pk"`
	Account       uuid.UUID `bun:"account" view:"aggregate"`
}

var wrongRows = projections.NewRows(func(b *wrongBranch) string { return b.Name })

// wrongBranches has its primary key in one file or the other.
func wrongBranches(table, indexes string) viewschema.Definition {
	p := &projections.Projector{Name: "branches", Tables: []projections.Table{wrongRows}, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[bank.Opened]) error {
			return wrongRows.Put(s, wrongBranch{Name: e.Data.Branch, Account: e.AggregateID.UUID()})
		}),
	}}
	return viewschema.Definition{
		Events: bank.Events, Projectors: []*projections.Projector{p}, Versions: projector.Versions{1: {projector.Replay(p)}},
		Views: fstest.MapFS{"branches.sql": {Data: []byte(table)}, "branches.indexes.sql": {Data: []byte(indexes)}},
	}
}

var (
	first  = uuid.MustParse("0a000000-0000-4000-8000-000000000001")
	second = uuid.MustParse("f0000000-0000-4000-8000-000000000002")
)

func openAccounts(ctx context.Context, conn *pgx.Conn, branch string, ids ...uuid.UUID) error {
	for _, id := range ids {
		_, err := conn.Exec(ctx, `
			insert into events (aggregate_id, sequence_number, event_type, data)
			values ($1, 1, 'AccountOpened', jsonb_build_object('branch', $2::text))`, id, branch)
		if err != nil {
			return err
		}
	}
	return nil
}

func twoAccounts(ctx context.Context, conn *pgx.Conn) error {
	if err := emptyStore(ctx, conn); err != nil {
		return err
	}
	return openAccounts(ctx, conn, "Gent, (2)", first, second)
}

func oneAccount(ctx context.Context, conn *pgx.Conn) error {
	if err := emptyStore(ctx, conn); err != nil {
		return err
	}
	return openAccounts(ctx, conn, "Gent, (2)", first)
}

// toldShared wants the table, the key, both accounts, and what to declare.
func toldShared(t *testing.T, what string, err error, table string) {
	t.Helper()
	if !errors.Is(err, projections.ErrShared) {
		t.Fatalf("%s: %v", what, err)
	}
	for _, part := range []string{table, "(name)=(Gent, (2))", first.String(), second.String(), "projections.NewTotals", "projections.ByPosition", "projections.ByPartition"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: it does not say %s: %v", what, part, err)
		}
	}
}

// A row that two aggregates write is found wherever it shows first: when its batch is stored, when its index is made, in a
// catch-up, and live. The error says what to declare, and not that an index was violated.
func TestRowOfTwoAggregates(t *testing.T) {
	t.Parallel()
	const columns = "create table branches%SUFFIX% (name text%s, account uuid not null)"
	for name, d := range map[string]viewschema.Definition{
		"key from the beginning": wrongBranches(strings.ReplaceAll(columns, "%s,", " constraint branches%SUFFIX%_pkey primary key,"), "create index branches%SUFFIX%_account on branches%SUFFIX% (account)"),
		"key at the end":         wrongBranches(strings.ReplaceAll(columns, "%s,", ","), "alter table branches%SUFFIX% add constraint branches%SUFFIX%_pkey primary key (name)"),
	} {
		t.Run("batch, "+name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, twoAccounts)
			_, err := open(t, db, d).MigrateOnline(t.Context())
			toldShared(t, "migrate online", err, "branches_1")
		})
		t.Run("catch-up, "+name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, oneAccount)
			s := open(t, db, d)
			online(t, s)
			appendAccounts(t, db, second)
			_, err := s.CatchUp(t.Context())
			toldShared(t, "migrate catchup", err, "branches_1")
			_, err = s.MigrateOffline(t.Context())
			toldShared(t, "migrate offline", err, "branches_1")
		})
		t.Run("catch-up with both, "+name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, emptyStore)
			s := open(t, db, d)
			online(t, s)
			appendAccounts(t, db, first, second)
			_, err := s.CatchUp(t.Context())
			toldShared(t, "migrate catchup", err, "branches_1")
		})
		t.Run("live, "+name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, emptyStore)
			if _, err := open(t, db, d).CreateTables(t.Context()); err != nil {
				t.Fatal(err)
			}
			project := func(ids ...uuid.UUID) error {
				set, err := projections.NewSet(d.Events, d.Projectors...)
				if err != nil {
					t.Fatal(err)
				}
				var events []projections.New
				for i, id := range ids {
					events = append(events, projections.New{
						Meta: projections.Meta{Position: int64(i + 1), AggregateID: projections.UUID(id), Sequence: 1}, Data: bank.Opened{Branch: "Gent, (2)"},
					})
				}
				return pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
					return set.In(viewschema.DefaultSchema, "").Project(t.Context(), projections.Pgx(tx), events...)
				})
			}
			err := project(first, second)
			toldShared(t, "both at once", err, "branches")
			if strings.Contains(err.Error(), "SQLSTATE") {
				t.Errorf("it was left to the database: %v", err)
			}
			if err := project(first); err != nil {
				t.Fatal(err)
			}
			toldShared(t, "one after the other", project(second), "branches")
		})
	}
}

func appendAccounts(t *testing.T, db *pgxpool.Pool, ids ...uuid.UUID) {
	t.Helper()
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := openAccounts(t.Context(), conn.Conn(), "Gent, (2)", ids...); err != nil {
		t.Fatal(fmt.Errorf("opening accounts: %w", err))
	}
}
