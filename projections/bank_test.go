package projections_test

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// A small bank, for the tests that read better with one.
type (
	opened struct {
		Owner string `json:"owner_name"`
		IBAN  string `json:"iban"`
	}
	renamed struct {
		Owner string `json:"owner_name"`
	}
	deposited struct {
		Amount       int64  `json:"amount"`
		Counterparty string `json:"counterparty"`
		Description  string `json:"description"`
	}
	closed struct{}

	account struct {
		bun.BaseModel `bun:"table:accounts"`
		ID            uuid.UUID `bun:"id,pk"`
		Owner         string    `bun:"owner"`
		IBAN          string    `bun:"iban"`
		Balance       int64     `bun:"balance"`
		Version       int64     `bun:"version"`
	}
	transaction struct {
		bun.BaseModel `bun:"table:transactions"`
		EventID       int64     `bun:"event_id,pk"`
		AccountID     uuid.UUID `bun:"account_id" view:"aggregate"`
		Sequence      int64     `bun:"seq"`
		Amount        int64     `bun:"amount"`
		Balance       int64     `bun:"balance"`
		Description   string    `bun:"description"`
		At            time.Time `bun:"at"`
	}
)

const bankSQL = `
create table accounts (
  id uuid primary key, owner text not null, iban text not null unique, balance bigint not null, version bigint not null);
create table transactions (
  event_id bigint primary key, account_id uuid not null, seq bigint not null, amount bigint not null, balance bigint not null,
  description text not null, at timestamptz not null);
create index on transactions (account_id, seq);
`

var (
	accounts     = projections.NewRows(func(a *account) uuid.UUID { return a.ID })
	transactions = projections.NewRows(func(t *transaction) int64 { return t.EventID })
	byAccount    = projections.NewIndex(transactions, "account_id", "seq",
		func(t *transaction) (uuid.UUID, int64) { return t.AccountID, t.Sequence })
)

var accountsProjector = &projections.Projector{
	Name:   "accounts",
	Tables: []projections.Table{accounts},
	Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[opened]) error {
			return accounts.Create(s, account{ID: e.AggregateID.UUID(), Owner: e.Data.Owner, IBAN: e.Data.IBAN, Version: e.Sequence})
		}),
		projections.On(func(s *projections.Store, e projections.Event[renamed]) error {
			return accounts.Update(s, e.AggregateID.UUID(), func(a *account) { a.Owner, a.Version = e.Data.Owner, e.Sequence })
		}),
		projections.On(func(s *projections.Store, e projections.Event[deposited]) error {
			return accounts.Update(s, e.AggregateID.UUID(), func(a *account) {
				a.Balance += e.Data.Amount
				a.Version = e.Sequence
			})
		}),
		projections.On(func(s *projections.Store, e projections.Event[closed]) error {
			return accounts.Delete(s, e.AggregateID.UUID())
		}),
	},
}

var transactionsProjector = &projections.Projector{
	Name:   "transactions",
	Tables: []projections.Table{transactions},
	Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[deposited]) error {
			last, _, err := byAccount.Last(s, e.AggregateID.UUID())
			if err != nil {
				return err
			}
			return transactions.Create(s, transaction{
				EventID: e.Position, AccountID: e.AggregateID.UUID(), Sequence: e.Sequence, Amount: e.Data.Amount,
				Balance: last.Balance + e.Data.Amount, Description: e.Data.Description, At: e.Time,
			})
		}),
	},
}

var bankEvents = []projections.EventType{
	projections.JSON[opened]("AccountOpened"),
	projections.JSON[renamed]("AccountRenamed"),
	projections.JSON[deposited]("MoneyDeposited"),
	projections.JSON[closed]("AccountClosed"),
	projections.Ignore("StatementPrinted"),
}

func setupBank(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, bankSQL)
	return err
}
