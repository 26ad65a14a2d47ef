package projectiontest_test

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/projections/projectiontest"
	"github.com/viewschema/projector/viewschema"
)

// Last is who has deposited last, at all or of a customer.
type (
	Last struct {
		bun.BaseModel `bun:"table:lasts"`
		Currency      string `bun:"currency,pk"`
		Amount        int64  `bun:"amount"`
		Times         int64  `bun:"times"`
	}
	LastOf struct {
		bun.BaseModel `bun:"table:lasts_of"`
		Customer      string `bun:"customer,pk"`
		Amount        int64  `bun:"amount"`
		Times         int64  `bun:"times"`
	}
)

var (
	lasts   = projections.NewRows(func(l *Last) string { return l.Currency })
	lastsOf = projections.NewRows(func(l *LastOf) string { return l.Customer })
	ordered = &projections.Projector{
		Name: "lasts", Order: projections.ByPosition, Tables: []projections.Table{lasts},
		Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[bank.Deposited]) error {
			return lasts.Upsert(s, "EUR", func(l *Last, _ bool) { l.Currency, l.Amount, l.Times = "EUR", e.Data.Amount, l.Times+1 })
		})},
	}
	ofCustomer = &projections.Projector{
		Name: "lasts of customers", Order: projections.ByPartition, Tables: []projections.Table{lastsOf},
		Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[bank.Deposited]) error {
			return lastsOf.Upsert(s, e.Partition.String(), func(l *LastOf, _ bool) {
				l.Customer, l.Amount, l.Times = e.Partition.String(), e.Data.Amount, l.Times+1
			})
		})},
	}
)

// Projectors of all orders are tested alike.
func TestOrders(t *testing.T) {
	t.Parallel()
	d := viewschema.Definition{
		Source:     eventstore.Mapping{Partition: "customer"},
		Events:     bank.Events,
		Projectors: []*projections.Projector{ordered, ofCustomer},
		Versions:   projector.Versions{1: {projector.Replay(ordered, ofCustomer)}},
		Views: fstest.MapFS{
			"lasts.sql":    {Data: []byte("create table lasts%SUFFIX% (currency text primary key, amount bigint not null, times bigint not null)")},
			"lasts_of.sql": {Data: []byte("create table lasts_of%SUFFIX% (customer text primary key, amount bigint not null, times bigint not null)")},
		},
	}
	table := projectiontest.EventTable(`create table events (
		position bigint generated always as identity primary key, aggregate_id uuid not null, sequence_number bigint not null,
		event_type text not null, data jsonb not null, created_at timestamptz not null, customer text, unique (aggregate_id, sequence_number))`)
	of := func(customer string, amount int64) projections.New {
		return projections.New{Meta: projections.Meta{Partition: projections.Text(customer)}, Data: bank.Deposited{Amount: amount}}
	}
	nobodys := of("", 5)
	nobodys.Partition = projections.NoPartition
	both(t, "", func(t testing.TB, begin begin) {
		test := begin(t, d, table)
		test.Given(ben, of("x", 1), of("y", 2))
		test.Given(anna, of("x", 3))
		test.When(ben, of("y", 4), nobodys)
		test.When(anna, of("x", 6))
		test.Then(Last{Currency: "EUR", Amount: 6, Times: 6}, LastOf{Customer: "x", Amount: 6, Times: 3}, LastOf{Customer: "y", Amount: 4, Times: 2})
	})
}

// An event that does not say which partition it is of would be of none in silence.
func TestEventWithoutAPartition(t *testing.T) {
	t.Parallel()
	set, err := projections.NewSet([]projections.EventType{projections.JSON[bank.Deposited]("MoneyDeposited")}, ofCustomer)
	if err != nil {
		t.Fatal(err)
	}
	e := projections.New{Meta: projections.Meta{Position: 1, AggregateID: projections.UUID(ben), Sequence: 1}, Data: bank.Deposited{Amount: 1}}
	if err := set.Memory().Project(t.Context(), e); !errors.Is(err, projections.ErrPartition) {
		t.Errorf("got %v", err)
	}
}
