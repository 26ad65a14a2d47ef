package bank

import (
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// Account is a row of the view table accounts.
type Account struct {
	bun.BaseModel `bun:"table:accounts"`
	ID            uuid.UUID `bun:"id,pk"`
	Owner         string    `bun:"owner"`
	IBAN          string    `bun:"iban"`
	Currency      string    `bun:"currency"`
	Branch        string    `bun:"branch"`
	Balance       int64     `bun:"balance"`
	Version       int64     `bun:"version"`
	OpenedAt      time.Time `bun:"opened_at"`
}

var accounts = projections.NewRows(func(a *Account) uuid.UUID { return a.ID })

// Accounts keeps one row per open account, and adds up the branches.
var Accounts = &projections.Projector{
	Name:     "accounts",
	Revision: 1,
	Tables:   []projections.Table{accounts, branchTotals},
	Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[Opened]) error {
			err := accounts.Create(s, Account{
				ID:       e.AggregateID.UUID(),
				Owner:    e.Data.Owner,
				IBAN:     e.Data.IBAN,
				Currency: e.Data.Currency,
				Branch:   e.Data.Branch,
				Version:  e.Sequence,
				OpenedAt: e.Time,
			})
			if err != nil {
				return err
			}
			return branchTotals.Add(s, BranchTotal{Branch: e.Data.Branch, Currency: e.Data.Currency, Accounts: 1})
		}),
		projections.On(func(s *projections.Store, e projections.Event[Renamed]) error {
			return accounts.Update(s, e.AggregateID.UUID(), func(a *Account) {
				a.Owner = e.Data.Owner
				a.Version = e.Sequence
			})
		}),
		projections.On(func(s *projections.Store, e projections.Event[Deposited]) error {
			return move(s, e.Meta, e.Data.Amount)
		}),
		projections.On(func(s *projections.Store, e projections.Event[Withdrawn]) error {
			return move(s, e.Meta, -e.Data.Amount)
		}),
		projections.On(func(s *projections.Store, e projections.Event[TransferSent]) error {
			return move(s, e.Meta, -e.Data.Amount)
		}),
		projections.On(func(s *projections.Store, e projections.Event[TransferReceived]) error {
			return move(s, e.Meta, e.Data.Amount)
		}),
		projections.On(func(s *projections.Store, e projections.Event[Closed]) error {
			a, err := accounts.Get(s, e.AggregateID.UUID())
			if err != nil {
				return err
			}
			if err := accounts.Delete(s, a.ID); err != nil {
				return err
			}
			return branchTotals.Add(s, BranchTotal{Branch: a.Branch, Currency: a.Currency, Accounts: -1, Balance: -a.Balance})
		}),
	},
}

func move(s *projections.Store, e projections.Meta, amount int64) error {
	total := BranchTotal{Balance: amount, Turnover: max(amount, -amount)}
	err := accounts.Update(s, e.AggregateID.UUID(), func(a *Account) {
		a.Balance += amount
		a.Version = e.Sequence
		total.Branch, total.Currency = a.Branch, a.Currency
	})
	if err != nil {
		return err
	}
	return branchTotals.Add(s, total)
}
