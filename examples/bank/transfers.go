package bank

import (
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// Transfer is a row of the view table transfers. It is no account's: the events of two make it.
type Transfer struct {
	bun.BaseModel `bun:"table:transfers"`
	ID            uuid.UUID  `bun:"id,pk"`
	FromAccount   uuid.UUID  `bun:"from_account"`
	ToIBAN        string     `bun:"to_iban"`
	ToAccount     *uuid.UUID `bun:"to_account"` // nil until it has arrived
	Amount        int64      `bun:"amount"`
	SentAt        time.Time  `bun:"sent_at"`
	ReceivedAt    *time.Time `bun:"received_at"`
}

var transfers = projections.NewRows(func(t *Transfer) uuid.UUID { return t.ID })

// Transfers keeps one row per transfer. It needs the order of the store: a transfer is sent by one account before it is received
// by another.
var Transfers = &projections.Projector{
	Name:     "transfers",
	Revision: 1,
	Order:    projections.ByPosition,
	Tables:   []projections.Table{transfers},
	Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[TransferSent]) error {
			return transfers.Create(s, Transfer{
				ID:          e.Data.Transfer,
				FromAccount: e.AggregateID.UUID(),
				ToIBAN:      e.Data.To,
				Amount:      e.Data.Amount,
				SentAt:      e.Time,
			})
		}),
		projections.On(func(s *projections.Store, e projections.Event[TransferReceived]) error {
			return transfers.Update(s, e.Data.Transfer, func(t *Transfer) {
				account, at := uuid.UUID(e.AggregateID.UUID()), e.Time
				t.ToAccount, t.ReceivedAt = &account, &at
			})
		}),
	},
}
