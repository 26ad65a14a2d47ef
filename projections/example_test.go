package projections_test

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// An account that is opened and gets money, and the table that an application reads it from.
func Example() {
	type Opened struct {
		Owner string `json:"owner"`
	}
	type Deposited struct {
		Amount int64 `json:"amount"`
	}
	type Account struct {
		bun.BaseModel `bun:"table:accounts"`
		ID            uuid.UUID `bun:"id,pk"`
		Owner         string    `bun:"owner"`
		Balance       int64     `bun:"balance"`
	}

	accounts := projections.NewRows(func(a *Account) uuid.UUID { return a.ID })
	projector := &projections.Projector{
		Name:   "accounts",
		Tables: []projections.Table{accounts},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[Opened]) error {
				return accounts.Create(s, Account{ID: e.AggregateID.UUID(), Owner: e.Data.Owner})
			}),
			projections.On(func(s *projections.Store, e projections.Event[Deposited]) error {
				return accounts.Update(s, e.AggregateID.UUID(), func(a *Account) { a.Balance += e.Data.Amount })
			}),
		},
	}
	set, err := projections.NewSet([]projections.EventType{
		projections.JSON[Opened]("AccountOpened"),
		projections.JSON[Deposited]("MoneyDeposited"),
	}, projector)
	if err != nil {
		panic(err)
	}
	fmt.Println("handles", set.Types())

	// Live: where the application appends its events, and in the same transaction.
	_ = func(ctx context.Context, tx pgx.Tx, account uuid.UUID, amount int64) error {
		return set.Project(ctx, projections.Pgx(tx), projections.New{
			Meta: projections.Meta{AggregateID: projections.UUID(account), Sequence: 2},
			Data: Deposited{Amount: amount},
		})
	}
	// Output: handles [AccountOpened MoneyDeposited]
}

// Branches that accounts add to. A row is not one aggregate's, so handlers only add.
func ExampleNewTotals() {
	type Opened struct {
		Branch string `json:"branch"`
	}
	type Branch struct {
		bun.BaseModel `bun:"table:branches"`
		Name          string    `bun:"name,pk"`
		Accounts      int64     `bun:"accounts" view:"count"`
		Since         time.Time `bun:"since" view:"min"`
		Newest        uuid.UUID `bun:"newest" view:"last"`
		Position      int64     `bun:"position" view:"position"`
	}

	branches := projections.NewTotals[Branch]()
	projector := &projections.Projector{
		Name:   "branches",
		Tables: []projections.Table{branches},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[Opened]) error {
				return branches.Add(s, Branch{Name: e.Data.Branch, Since: e.Time, Newest: e.AggregateID.UUID()})
			}),
		},
	}
	set, err := projections.NewSet([]projections.EventType{projections.JSON[Opened]("AccountOpened")}, projector)
	if err != nil {
		panic(err)
	}
	for _, t := range set.Totals() {
		fmt.Println(t.Projector, "adds to", t.Table, "and keeps the last", t.LastBy())
	}
	// Output: branches adds to branches and keeps the last newest
}

func ExampleSet_KeyColumns() {
	type Booking struct {
		bun.BaseModel `bun:"table:bookings"`
		No            int64     `bun:"no,pk,autoincrement"`
		Account       uuid.UUID `bun:"account_id" view:"aggregate"`
		Event         int64     `bun:"event_id"`
	}
	bookings := projections.NewRows(func(b *Booking) int64 { return b.Event })
	balances := &projections.SQLTable{Name: "balances", Aggregate: "id", Query: "select aggregate_id as id, count(*) from %EVENTS% group by 1"}

	set, err := projections.NewSet(nil,
		&projections.Projector{Name: "bookings", Tables: []projections.Table{bookings}},
		&projections.Projector{Name: "balances", Tables: []projections.Table{balances}},
	)
	if err != nil {
		panic(err)
	}
	fmt.Println(set.KeyColumns("bookings"), set.KeyColumns("balances"))
	// Output: [account_id] [id]
}
