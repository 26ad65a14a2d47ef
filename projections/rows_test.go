package projections_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/projections"
)

// handle calls fn with the store of one event of ada, in both ends.
func handle(t *testing.T, tables []projections.Table, fn func(s *projections.Store) error) {
	t.Helper()
	p := &projections.Projector{Name: "test", Tables: tables, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, _ projections.Event[deposited]) error { return fn(s) }),
	}}
	pool, set := bank(t, p)
	for name, run := range map[string]*projections.Run{"rebuild": set.Rebuild(), "catch-up": set.CatchUp()} {
		done := errors.New("done: roll back")
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if err := run.Begin(t.Context(), tx, []projections.ID{projections.UUID(ada)}); err != nil {
				return err
			}
			if err := run.Apply(ev(1, ada, 1, "MoneyDeposited", "{}")); err != nil {
				return err
			}
			if _, err := run.Flush(); err != nil {
				return err
			}
			return done
		}); !errors.Is(err, done) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCreateIsAllOrNothing(t *testing.T) {
	t.Parallel()
	handle(t, []projections.Table{transactions}, func(s *projections.Store) error {
		row := func(id int64) transaction { return transaction{EventID: id, AccountID: ada, Sequence: id} }
		if err := transactions.Create(s, row(3)); err != nil {
			return err
		}
		if err := transactions.Create(s, row(1), row(2), row(3)); !errors.Is(err, projections.ErrExists) {
			return fmt.Errorf("created a row twice: %w", err)
		}
		stray := row(5)
		stray.AccountID = bob
		if err := transactions.Create(s, row(4), stray); !errors.Is(err, projections.ErrForeign) {
			return fmt.Errorf("created another aggregate's row: %w", err)
		}
		n, err := transactions.DeleteAll(s)
		if n != 1 {
			return fmt.Errorf("%d rows, want 1: %w", n, err)
		}
		return err
	})
}

func TestForeignRowsAreOutOfReach(t *testing.T) {
	t.Parallel()
	handle(t, []projections.Table{accounts, transactions}, func(s *projections.Store) error {
		for name, access := range map[string]func(id uuid.UUID) error{
			"get":    func(id uuid.UUID) error { _, err := accounts.Get(s, id); return err },
			"find":   func(id uuid.UUID) error { _, _, err := accounts.Find(s, id); return err },
			"update": func(id uuid.UUID) error { return accounts.Update(s, id, func(*account) {}) },
			"upsert": func(id uuid.UUID) error { return accounts.Upsert(s, id, func(a *account, _ bool) { a.ID = id }) },
			"delete": func(id uuid.UUID) error { return accounts.Delete(s, id) },
			"put":    func(id uuid.UUID) error { return accounts.Put(s, account{ID: id}) },
			"last":   func(id uuid.UUID) error { _, _, err := byAccount.Last(s, id); return err },
			"all": func(id uuid.UUID) error {
				for _, err := range byAccount.All(s, id) {
					return err
				}
				return nil
			},
		} {
			if err := access(bob); !errors.Is(err, projections.ErrForeign) {
				t.Errorf("%s of another aggregate's row: %v", name, err)
			}
			if err := access(ada); errors.Is(err, projections.ErrForeign) {
				t.Errorf("%s of the aggregate's row: %v", name, err)
			}
		}
		return nil
	})
}

// What a handler got or passed is its own.
func TestRowsAreCopies(t *testing.T) {
	t.Parallel()
	handle(t, []projections.Table{accounts}, func(s *projections.Store) error {
		row := account{ID: ada, Owner: "Ada"}
		if err := accounts.Put(s, row); err != nil {
			return err
		}
		row.Owner = "changed after Put"
		got, err := accounts.Get(s, ada)
		if err != nil {
			return err
		}
		got.Owner = "changed after Get"
		var kept *account
		if err := accounts.Update(s, ada, func(a *account) { kept, a.Balance = a, 1 }); err != nil {
			return err
		}
		if got, err = accounts.Get(s, ada); err != nil || got.Owner != "Ada" || kept.Balance != 1 {
			return fmt.Errorf("the row is %v, %w", got, err)
		}
		return accounts.Delete(s, ada)
	})
}
