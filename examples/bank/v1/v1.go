// Package v1 is the bank's first release: the projectors and view tables that are live while version 2 is built. In a real
// application it is the previous deployment, and not in the source tree any more.
package v1

import (
	"embed"
	"io/fs"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// Account is a row of the view table accounts, as it was.
type Account struct {
	bun.BaseModel `bun:"table:accounts"`
	ID            uuid.UUID `bun:"id,pk"`
	Owner         string    `bun:"owner"`
	Balance       int64     `bun:"balance"`
}

var accounts = projections.NewRows(func(a *Account) uuid.UUID { return a.ID })

// Accounts keeps one row per open account.
var Accounts = &projections.Projector{
	Name:     "accounts",
	Revision: 1,
	Tables:   []projections.Table{accounts},
	Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[bank.Opened]) error {
			return accounts.Create(s, Account{ID: e.AggregateID.UUID(), Owner: e.Data.Owner})
		}),
		projections.On(func(s *projections.Store, e projections.Event[bank.Renamed]) error {
			return accounts.Update(s, e.AggregateID.UUID(), func(a *Account) { a.Owner = e.Data.Owner })
		}),
		projections.On(func(s *projections.Store, e projections.Event[bank.Deposited]) error {
			return move(s, e.Meta, e.Data.Amount)
		}),
		projections.On(func(s *projections.Store, e projections.Event[bank.Withdrawn]) error {
			return move(s, e.Meta, -e.Data.Amount)
		}),
		projections.On(func(s *projections.Store, e projections.Event[bank.TransferSent]) error {
			return move(s, e.Meta, -e.Data.Amount)
		}),
		projections.On(func(s *projections.Store, e projections.Event[bank.TransferReceived]) error {
			return move(s, e.Meta, e.Data.Amount)
		}),
		projections.On(func(s *projections.Store, e projections.Event[bank.Closed]) error {
			return accounts.Delete(s, e.AggregateID.UUID())
		}),
	},
}

func move(s *projections.Store, e projections.Meta, amount int64) error {
	return accounts.Update(s, e.AggregateID.UUID(), func(a *Account) { a.Balance += amount })
}

//go:embed views/*.sql
var files embed.FS

// Definition is the first release's; transactions have not changed since.
var Definition = viewschema.Definition{
	Events:     bank.Events,
	Projectors: []*projections.Projector{Accounts, bank.Transactions},
	Versions:   projector.Versions{1: {projector.Replay(Accounts, bank.Transactions)}},
	Views:      views(),
}

func views() fs.FS {
	sub, err := fs.Sub(files, "views")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}
