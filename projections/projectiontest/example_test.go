package projectiontest_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/projections/projectiontest"
	"github.com/viewschema/projector/viewschema"
)

// run runs an example as a test, and prints how it fails.
func run(test func(t testing.TB)) {
	fmt.Println(record(context.Background(), func(r *recorder) { test(r) }))
}

func Example() {
	run(func(t testing.TB) { // in place of: func TestTransfer(t *testing.T) {
		anna, ben := projectiontest.UUID("anna"), projectiontest.UUID("ben")

		test := projectiontest.Memory(t, bank.Definition) // or projectiontest.Database(t, bank.Definition)
		test.Given(anna, bank.Opened{Owner: "Anna", IBAN: "NL01"}, bank.Deposited{Amount: 100})
		test.Given(ben, bank.Opened{Owner: "Ben", IBAN: "NL02"})
		test.When(anna, bank.TransferSent{Amount: 40, To: "NL02"})
		test.When(ben, bank.TransferReceived{Amount: 40, From: "NL01"})
		test.Then(
			bank.Account{ID: anna, Owner: "Anna", IBAN: "NL01", Balance: 70, Version: 3, OpenedAt: projectiontest.At(1)},
			bank.Account{ID: ben, Owner: "Ben", IBAN: "NL02", Balance: 40, Version: 2, OpenedAt: projectiontest.At(3)},
		)
	})
	// Output:
	// Then: the rows projected live are not as wanted
	// accounts:
	//     anna:
	//         Balance: got 60, want 70
	//   given    1  anna #1  bank.Opened{Owner: "Anna", IBAN: "NL01"}
	//   given    2  anna #2  bank.Deposited{Amount: 100}
	//   given    3  ben #1  bank.Opened{Owner: "Ben", IBAN: "NL02"}
	//   when     4  anna #3  bank.TransferSent{Amount: 40, To: "NL02"}
	//   when     5  ben #2  bank.TransferReceived{Amount: 40, From: "NL01"}
}

func ExampleMemory() {
	run(func(t testing.TB) {
		anna := projectiontest.UUID("anna")
		test := projectiontest.Memory(t, bank.Definition)
		test.When(anna, bank.Opened{Owner: "Anna"})
		test.Then(bank.Account{ID: anna, Owner: "Anna", Version: 1, OpenedAt: projectiontest.At(1)})
		fmt.Println("passed")
	})
	// Output: passed
}

// The same test on PostgreSQL.
func ExampleDatabase() {
	run(func(t testing.TB) {
		anna := projectiontest.UUID("anna")
		test := projectiontest.Database(t, bank.Definition)
		test.When(anna, bank.Opened{Owner: "Anna"})
		test.Then(bank.Account{ID: anna, Owner: "Anna", Version: 1, OpenedAt: projectiontest.At(1)})
		fmt.Println("passed")
	})
	// Output: passed
}

// History is more than payloads: an event has its own time, or lies in the store as an older release has written it.
func ExampleTest_Given() {
	run(func(t testing.TB) {
		anna := projectiontest.UUID("anna")
		leapDay := time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)
		test := projectiontest.Memory(t, bank.Definition)
		test.Given(anna,
			projections.New{Meta: projections.Meta{Time: leapDay}, Data: bank.Opened{Owner: "Anna"}},
			projections.Raw{Type: []byte("MoneyDeposited"), Data: []byte(`{"amount": 5, "a_member": "that is no more"}`)},
		)
		test.Then(bank.Account{ID: anna, Owner: "Anna", Balance: 5, Version: 2, OpenedAt: leapDay})
	})
	// Output:
}

func ExampleTest_When() {
	run(func(t testing.TB) {
		anna := projectiontest.UUID("anna")
		test := projectiontest.Memory(t, bank.Definition)
		test.When(anna, bank.Opened{Owner: "Anna"}, bank.Deposited{Amount: 5}) // one transaction
		test.When(anna, bank.Closed{})                                         // another one
		test.ThenNone(bank.Account{})
	})
	// Output:
}

func ExampleTest_Then() {
	run(func(t testing.TB) {
		anna := projectiontest.UUID("anna")
		test := projectiontest.Memory(t, bank.Definition)
		test.When(anna, bank.Opened{Owner: "Anna"}, bank.Deposited{Amount: 5})
		test.Then(bank.Transaction{EventID: 1, AccountID: anna, Amount: 5})
	})
	// Output:
	// Then: the rows projected live are not as wanted
	// transactions:
	//     2: is there, and was not expected
	//         bank.Transaction{EventID: 2, AccountID: anna, Sequence: 2, Kind: "deposit", Amount: 5, Balance: 5, At: 2024-01-01T00:00:02Z}
	//     1: is missing
	//         bank.Transaction{EventID: 1, AccountID: anna, Amount: 5}
	//   when     1  anna #1  bank.Opened{Owner: "Anna"}
	//   when     2  anna #2  bank.Deposited{Amount: 5}
}

func ExampleTest_ThenNone() {
	run(func(t testing.TB) {
		test := projectiontest.Memory(t, bank.Definition)
		test.Given(projectiontest.UUID("anna"), bank.Opened{Owner: "Anna"}, bank.Closed{})
		test.ThenNone(bank.Account{}, bank.Transaction{})
	})
	// Output:
}

func ExampleTest_ThenError() {
	run(func(t testing.TB) {
		test := projectiontest.Memory(t, bank.Definition)
		test.When(projectiontest.UUID("anna"), bank.Renamed{Owner: "Anna"})
		test.ThenError(projections.ErrNotFound, "projector accounts", "AccountRenamed")
	})
	// Output:
}

func ExampleTest_Regenerate() {
	run(func(t testing.TB) {
		anna := projectiontest.UUID("anna")
		test := projectiontest.Memory(t, bank.Definition)
		if _, err := test.Events().Append(t.Context(), projections.New{
			Meta: projections.Meta{AggregateID: projections.UUID(anna), Sequence: 1, Type: "AccountOpened", Time: projectiontest.At(1)},
			Data: bank.Opened{Owner: "Anna"},
		}); err != nil {
			t.Fatal(err)
		}
		test.ThenNone(bank.Account{}) // nobody has told the projectors
		test.Regenerate()
		test.Then(bank.Account{ID: anna, Owner: "Anna", Version: 1, OpenedAt: projectiontest.At(1)})
	})
	// Output:
}

func ExampleTest_Events() {
	run(func(t testing.TB) {
		test := projectiontest.Memory(t, bank.Definition)
		test.Given(projectiontest.UUID("anna"), bank.Renamed{Owner: "Anna"})
		events, err := test.Events().Read(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			fmt.Printf("%d %s %s\n", e.Position, e.Type, e.Data)
		}
		test.ThenError(projections.ErrNotFound)
	})
	// Output: 1 AccountRenamed {"owner_name":"Anna"}
}

func ExampleTest_Pool() {
	run(func(t testing.TB) {
		test := projectiontest.Database(t, bank.Definition)
		test.Given(projectiontest.UUID("anna"), bank.Opened{Owner: "Anna", Branch: "Gent"})
		var n int
		if err := test.Pool().QueryRow(t.Context(), "select count(*) from view_schema.accounts where branch = 'Gent'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		fmt.Println(n, "in Gent")
	})
	// Output: 1 in Gent
}

func ExampleRows() {
	run(func(t testing.TB) {
		test := projectiontest.Memory(t, bank.Definition)
		test.Given(projectiontest.UUID("anna"), bank.Opened{Owner: "Anna"}, bank.Deposited{Amount: 5}, bank.Withdrawn{Amount: 2})
		for _, row := range projectiontest.Rows[bank.Transaction](test) {
			fmt.Println(row.Kind, row.Amount, row.Balance)
		}
	})
	// Output:
	// deposit 5 5
	// withdrawal -2 3
}

func ExampleUUID() {
	id := projectiontest.UUID("anna")
	fmt.Println(uuid.UUID(id))
	// Output: 616e6e61-0000-0000-0000-000000000000
}

func ExampleAt() {
	fmt.Println(projectiontest.At(1).Format(time.RFC3339))
	// Output: 2024-01-01T00:00:01Z
}

func ExampleIgnore() {
	run(func(t testing.TB) {
		anna := projectiontest.UUID("anna")
		test := projectiontest.Memory(t, bank.Definition, projectiontest.Ignore(bank.Account{}, "OpenedAt", "Version"))
		test.Given(anna, bank.Opened{Owner: "Anna"})
		test.Then(bank.Account{ID: anna, Owner: "Anna"})
	})
	// Output:
}

func ExampleCompare() {
	run(func(t testing.TB) {
		anna := projectiontest.UUID("anna")
		sameMinute := cmp.Comparer(func(a, b time.Time) bool { return a.Truncate(time.Minute).Equal(b.Truncate(time.Minute)) })
		test := projectiontest.Memory(t, bank.Definition, projectiontest.Compare(sameMinute))
		test.Given(anna, bank.Opened{Owner: "Anna"})
		test.Then(bank.Account{ID: anna, Owner: "Anna", Version: 1, OpenedAt: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)})
	})
	// Output:
}

func ExampleEventTable() {
	const messages = `create table messages (
		id bigint generated always as identity primary key, stream uuid, version int, type text, body jsonb, at timestamptz,
		unique (stream, version))`
	run(func(t testing.TB) {
		d := bank.Definition
		d.Source = eventstore.Mapping{
			Relation: "messages", Position: "id", AggregateID: "stream", Sequence: "version", Type: "type", Data: "body", Time: "at",
		}
		test := projectiontest.Database(t, d, projectiontest.EventTable(messages))
		test.When(projectiontest.UUID("anna"), bank.Opened{Owner: "Anna"})
		fmt.Println(projectiontest.Rows[bank.Account](test)[0].Owner)
	})
	// Output: Anna
}

// Counters count steps, whose events are not JSON.
type Counter struct {
	bun.BaseModel `bun:"table:counters"`
	Name          string `bun:"name,pk"`
	Steps         int64  `bun:"steps"`
}

type Stepped struct{ Steps int64 }

var (
	counters = projections.NewRows(func(c *Counter) string { return c.Name })

	counting = &projections.Projector{
		Name:   "counters",
		Tables: []projections.Table{counters},
		Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[Stepped]) error {
			return counters.Upsert(s, e.AggregateID.String(), func(c *Counter, _ bool) {
				c.Name, c.Steps = e.AggregateID.String(), c.Steps+e.Data.Steps
			})
		})},
	}
)

func ExampleEncode() {
	d := viewschema.Definition{
		Events: []projections.EventType{projections.Decode("Stepped", func(data []byte, p *Stepped) error {
			return gob.NewDecoder(bytes.NewReader(data)).Decode(p)
		})},
		Projectors: []*projections.Projector{counting},
		Versions:   projector.Versions{1: {projector.Replay(counting)}},
	}
	encode := projectiontest.Encode(func(e projections.New) ([]byte, error) {
		var b bytes.Buffer
		err := gob.NewEncoder(&b).Encode(e.Data)
		return b.Bytes(), err
	})
	run(func(t testing.TB) {
		test := projectiontest.Memory(t, d, encode)
		test.Given("stairs", Stepped{3})
		test.When("stairs", Stepped{4})
		test.Then(Counter{Name: "stairs", Steps: 7})
	})
	// Output:
}

func ExampleNewMemoryEvents() {
	ctx, anna := context.Background(), projections.UUID(projectiontest.UUID("anna"))
	deposit := projections.New{
		Meta: projections.Meta{AggregateID: anna, Sequence: 1, Type: "MoneyDeposited", Time: projectiontest.At(1)},
		Data: bank.Deposited{Amount: 5},
	}

	events := projectiontest.NewMemoryEvents()
	for range 2 {
		stored, err := events.Append(ctx, deposit)
		fmt.Println(len(stored), err)
	}
	// Output:
	// 1 <nil>
	// 0 aggregate 616e6e61-0000-0000-0000-000000000000, sequence 1: the aggregate has an event with this sequence number
}

// A service takes an event store; its tests give it one in memory, and its own code tells conflicts from failures.
func ExampleEvents() {
	withdraw := func(ctx context.Context, events projectiontest.Events, account projections.ID, amount int64) error {
		for {
			history, err := events.Read(ctx, 0, account)
			if err != nil {
				return err
			}
			_, err = events.Append(ctx, projections.New{
				Meta: projections.Meta{AggregateID: account, Sequence: int64(len(history)) + 1, Type: "MoneyWithdrawn"},
				Data: bank.Withdrawn{Amount: amount},
			})
			if conflict, ok := errors.AsType[*projectiontest.ConflictError](err); ok {
				fmt.Println("somebody else has written event", conflict.Sequence)
				continue
			}
			return err
		}
	}
	fmt.Println(withdraw(context.Background(), projectiontest.NewMemoryEvents(), projections.Text("anna"), 30))
	// Output: <nil>
}

func ExampleNewTableEvents() {
	run(func(t testing.TB) {
		pool := projectiontest.Database(t, bank.Definition).Pool()
		events, err := projectiontest.NewTableEvents(t.Context(), pool, bank.Definition.Source)
		if err != nil {
			t.Fatal(err)
		}
		anna := projections.UUID(projectiontest.UUID("anna"))
		err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			stored, err := events.In(tx).Append(t.Context(), projections.New{
				Meta: projections.Meta{AggregateID: anna, Sequence: 1, Type: "AccountClosed"}, Data: bank.Closed{},
			})
			fmt.Println(stored[0].Position, err)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	// Output: 1 <nil>
}
