package main

import (
	"bytes"
	"embed"
	"io/fs"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/examples/bank-sql/queries"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// definitions are the bank's, without what is replayed in the order of the store, for which the floor has no phase; the same
// with ids of any type, by the type of the column; and in SQL.
var definitions = map[worker]func() viewschema.Definition{
	asBank: bank.WithoutTransfers,
	asUUIDs: func() viewschema.Definition {
		return definition("uuid", func(id projections.ID) uuid.UUID { return id.UUID() })
	},
	asTexts: func() viewschema.Definition { return definition(`text collate "C"`, projections.ID.String) },
	asSQL:   inSQL,
	asLane:  inOrder,
}

// inOrder is what the bank replays in the order of the store.
func inOrder() viewschema.Definition {
	d := bank.Definition
	d.Projectors = []*projections.Projector{bank.Transfers}
	d.Versions = projector.Versions{1: {projector.Replay(bank.Transfers)}}
	return d
}

// inSQL is the bank's newest version, with all tables filled by queries.
func inSQL() viewschema.Definition {
	d := bank.Definition
	d.Events, d.Projectors = nil, queries.Projectors()
	replay := projector.Replay(d.Projectors[0], d.Projectors[1])
	d.Versions = projector.Versions{}
	for v := range bank.Versions.Target() {
		d.Versions[v+1] = []projector.Change{replay}
	}
	return d
}

//go:embed views
var files embed.FS

// views are SQL files in which the type of ids is filled in.
type views struct {
	fs.FS
	id string
}

func (v views) ReadFile(name string) ([]byte, error) {
	text, err := files.ReadFile("views/" + name)
	return bytes.ReplaceAll(text, []byte("%ID%"), []byte(v.id)), err
}

func definition[ID uuid.UUID | string](column string, idOf func(projections.ID) ID) viewschema.Definition {
	projectors := []*projections.Projector{accountsOf(idOf), transactionsOf(idOf)}
	return viewschema.Definition{
		Events:     bank.Events,
		Projectors: projectors,
		Versions:   projector.Versions{1: {projector.Replay(projectors[0], projectors[1])}},
		Views:      views{files, column},
	}
}

type account[ID comparable] struct {
	bun.BaseModel `bun:"table:accounts"`
	ID            ID        `bun:"id,pk"`
	Owner         string    `bun:"owner"`
	IBAN          string    `bun:"iban"`
	Currency      string    `bun:"currency"`
	Branch        string    `bun:"branch"`
	Balance       int64     `bun:"balance"`
	Version       int64     `bun:"version"`
	OpenedAt      time.Time `bun:"opened_at"`
}

func accountsOf[ID uuid.UUID | string](idOf func(projections.ID) ID) *projections.Projector {
	accounts := projections.NewRows(func(a *account[ID]) ID { return a.ID })
	move := func(s *projections.Store, e projections.Meta, amount int64) error {
		return accounts.Update(s, idOf(e.AggregateID), func(a *account[ID]) {
			a.Balance += amount
			a.Version = e.Sequence
		})
	}
	return &projections.Projector{
		Name:   "accounts",
		Tables: []projections.Table{accounts},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[bank.Opened]) error {
				return accounts.Create(s, account[ID]{
					ID: idOf(e.AggregateID), Owner: e.Data.Owner, IBAN: e.Data.IBAN, Currency: e.Data.Currency,
					Branch: e.Data.Branch, Version: e.Sequence, OpenedAt: e.Time,
				})
			}),
			projections.On(func(s *projections.Store, e projections.Event[bank.Renamed]) error {
				return accounts.Update(s, idOf(e.AggregateID), func(a *account[ID]) { a.Owner, a.Version = e.Data.Owner, e.Sequence })
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
				return accounts.Delete(s, idOf(e.AggregateID))
			}),
		},
	}
}

type transaction[ID comparable] struct {
	bun.BaseModel `bun:"table:transactions"`
	EventID       int64     `bun:"event_id,pk"`
	AccountID     ID        `bun:"account_id" view:"aggregate"`
	Sequence      int64     `bun:"seq"`
	Kind          string    `bun:"kind"`
	Amount        int64     `bun:"amount"`
	Balance       int64     `bun:"balance"`
	Description   string    `bun:"description"`
	At            time.Time `bun:"at"`
}

func transactionsOf[ID uuid.UUID | string](idOf func(projections.ID) ID) *projections.Projector {
	transactions := projections.NewRows(func(t *transaction[ID]) int64 { return t.EventID })
	byAccount := projections.NewIndex(transactions, "account_id", "seq",
		func(t *transaction[ID]) (ID, int64) { return t.AccountID, t.Sequence })
	book := func(s *projections.Store, e projections.Meta, kind string, amount int64, description string) error {
		id := idOf(e.AggregateID)
		last, _, err := byAccount.Last(s, id)
		if err != nil {
			return err
		}
		return transactions.Create(s, transaction[ID]{
			EventID: e.Position, AccountID: id, Sequence: e.Sequence, Kind: kind, Amount: amount,
			Balance: last.Balance + amount, Description: description, At: e.Time,
		})
	}
	return &projections.Projector{
		Name:   "transactions",
		Tables: []projections.Table{transactions},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[bank.Deposited]) error {
				return book(s, e.Meta, "deposit", e.Data.Amount, e.Data.Description)
			}),
			projections.On(func(s *projections.Store, e projections.Event[bank.Withdrawn]) error {
				return book(s, e.Meta, "withdrawal", -e.Data.Amount, e.Data.Description)
			}),
			projections.On(func(s *projections.Store, e projections.Event[bank.TransferSent]) error {
				return book(s, e.Meta, "transfer", -e.Data.Amount, "to "+e.Data.To)
			}),
			projections.On(func(s *projections.Store, e projections.Event[bank.TransferReceived]) error {
				return book(s, e.Meta, "transfer", e.Data.Amount, "from "+e.Data.From)
			}),
		},
	}
}
