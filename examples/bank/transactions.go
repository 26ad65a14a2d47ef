package bank

import (
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// Transaction is a row of the view table transactions.
type Transaction struct {
	bun.BaseModel `bun:"table:transactions"`
	EventID       int64     `bun:"event_id,pk"`
	AccountID     uuid.UUID `bun:"account_id" view:"aggregate"`
	Sequence      int64     `bun:"seq"`
	Kind          string    `bun:"kind"`
	Amount        int64     `bun:"amount"`
	Balance       int64     `bun:"balance"`
	Description   string    `bun:"description"`
	At            time.Time `bun:"at"`
}

var (
	transactions = projections.NewRows(func(t *Transaction) int64 { return t.EventID })
	byAccount    = projections.NewIndex(transactions, "account_id", "seq",
		func(t *Transaction) (uuid.UUID, int64) { return t.AccountID, t.Sequence })
)

// Transactions keeps one row per movement of money, with the balance after it.
var Transactions = &projections.Projector{
	Name:     "transactions",
	Revision: 1,
	Tables:   []projections.Table{transactions},
	Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[Deposited]) error {
			return book(s, e.Meta, "deposit", e.Data.Amount, e.Data.Description)
		}),
		projections.On(func(s *projections.Store, e projections.Event[Withdrawn]) error {
			return book(s, e.Meta, "withdrawal", -e.Data.Amount, e.Data.Description)
		}),
		projections.On(func(s *projections.Store, e projections.Event[TransferSent]) error {
			return book(s, e.Meta, "transfer", -e.Data.Amount, "to "+e.Data.To)
		}),
		projections.On(func(s *projections.Store, e projections.Event[TransferReceived]) error {
			return book(s, e.Meta, "transfer", e.Data.Amount, "from "+e.Data.From)
		}),
	},
}

func book(s *projections.Store, e projections.Meta, kind string, amount int64, description string) error {
	last, _, err := byAccount.Last(s, e.AggregateID.UUID()) // the zero row before the first
	if err != nil {
		return err
	}
	return transactions.Create(s, Transaction{
		EventID:     e.Position,
		AccountID:   e.AggregateID.UUID(),
		Sequence:    e.Sequence,
		Kind:        kind,
		Amount:      amount,
		Balance:     last.Balance + amount,
		Description: description,
		At:          e.Time,
	})
}
