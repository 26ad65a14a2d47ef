package projections_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

// An operation is always an event, but for BenchmarkEncode. Events come in rounds, each of which is a batch on the same tables.

const opening = 30 // events

// history is one account's: it is opened, renamed, and gets 28 deposits.
func history(account int) []projections.Raw {
	events := []projections.Raw{
		stored(account, 1, "AccountOpened", fmt.Sprintf(`{"owner_name":"Ada Lovelace","iban":"NL%020d"}`, account)),
		stored(account, 2, "AccountRenamed", `{"owner_name":"Ada King, Countess of Lovelace"}`),
	}
	return append(events, deposits(account, 3, opening)...)
}

// deposits are an account's events from one sequence number to another.
func deposits(account, from, to int) (events []projections.Raw) {
	for seq := from; seq <= to; seq++ {
		events = append(events, stored(account, seq, "MoneyDeposited",
			`{"amount":1250,"counterparty":"NL00BANK0123456789","description":"monthly contribution, second installment"}`))
	}
	return events
}

func stored(account, seq int, name, data string) projections.Raw {
	return projections.Raw{
		Position: int64(account)*100 + int64(seq), Sequence: int64(seq), Time: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC),
		AggregateID: projections.UUID(uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, account))),
		Type:        []byte(name), Data: []byte(data),
	}
}

// accountsOf makes the events of several accounts.
func accountsOf(n int, events func(account int) []projections.Raw) (all []projections.Raw) {
	for i := range n {
		all = append(all, events(i)...)
	}
	return all
}

// fewAccounts have rows for less than a rebuild collects before it stores them: without Flush, nothing is stored.
const fewAccounts = 300

// The time that it takes to make a payload of JSON, and to find out that its handler does nothing.
func BenchmarkDecode(b *testing.B) {
	idle := &projections.Projector{
		Name: "idle", Tables: []projections.Table{accounts},
		Handlers: []projections.Handler{
			projections.On(func(*projections.Store, projections.Event[deposited]) error { return nil }),
		},
	}
	set, err := projections.NewSet(bankEvents, idle)
	if err != nil {
		b.Fatal(err)
	}
	events := accountsOf(fewAccounts, func(account int) []projections.Raw { return deposits(account, 1, opening) })
	unstored(b, set, events)
}

// What handlers do with rows, on payloads that need no decoding. It contains encoding the rows, which BenchmarkEncode
// measures alone.
func BenchmarkHandlers(b *testing.B) {
	set, err := projections.NewSet([]projections.EventType{
		projections.Decode("AccountOpened", func(iban []byte, p *opened) error {
			*p = opened{Owner: "Ada Lovelace", IBAN: string(iban)}
			return nil
		}),
		prepared("AccountRenamed", renamed{Owner: "Ada King, Countess of Lovelace"}),
		prepared("MoneyDeposited", deposited{1250, "NL00BANK0123456789", "monthly contribution, second installment"}),
		prepared("AccountClosed", closed{}),
	}, accountsProjector, transactionsProjector)
	if err != nil {
		b.Fatal(err)
	}
	unstored(b, set, accountsOf(fewAccounts, history))
}

func prepared[P any](name string, value P) projections.EventType {
	return projections.Decode(name, func(_ []byte, p *P) error {
		*p = value
		return nil
	})
}

// unstored applies events as a rebuild does. Beginning a batch is not timed.
func unstored(b *testing.B, set *projections.Set, events []projections.Raw) {
	run := set.Rebuild()
	rounds(b, events, func(tx pgx.Tx, events []projections.Raw) {
		b.StopTimer()
		check(b, run.Begin(b.Context(), tx, nil))
		b.StartTimer()
		replay(b, run, events)
	})
}

// rounds calls round again and again with the events, in a transaction on the bank's empty tables, until there were b.N.
func rounds(b *testing.B, events []projections.Raw, round func(tx pgx.Tx, events []projections.Raw)) {
	pool := pgtest.Database(b, setupBank)
	tx, err := pool.Begin(b.Context())
	check(b, err)
	defer func() { _ = tx.Rollback(b.Context()) }()
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= len(events) {
		round(tx, events[:min(left, len(events))])
	}
	b.StopTimer()
}

func replay(b *testing.B, run *projections.Run, events []projections.Raw) {
	for i := range events {
		check(b, run.Apply(&events[i]))
	}
}

func check(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

// printed has no payload; its handler does nothing, and ends the aggregate before.
type printed struct{}

// An operation is a row that COPY gets.
func BenchmarkEncode(b *testing.B) {
	const rows = 3000 // of one aggregate
	left := 0
	many := &projections.Projector{
		Name: "many", Tables: []projections.Table{transactions},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[deposited]) error {
				for i := range min(left, rows) {
					err := transactions.Create(s, transaction{
						EventID: int64(i), AccountID: e.AggregateID.UUID(), Sequence: int64(i), Amount: 1250, Balance: 1250 * int64(i),
						Description: "monthly contribution, second installment", At: e.Time,
					})
					if err != nil {
						return err
					}
				}
				return nil
			}),
			projections.On(func(*projections.Store, projections.Event[printed]) error { return nil }),
		},
	}
	set, err := projections.NewSet([]projections.EventType{
		prepared("MoneyDeposited", deposited{}), prepared("StatementPrinted", printed{}),
	}, many)
	check(b, err)
	run, one, other := set.Rebuild(), stored(1, 1, "MoneyDeposited", ""), stored(2, 1, "StatementPrinted", "")
	rounds(b, make([]projections.Raw, rows), func(tx pgx.Tx, round []projections.Raw) {
		b.StopTimer()
		left = len(round)
		check(b, run.Begin(b.Context(), tx, nil))
		check(b, run.Apply(&one))
		b.StartTimer()
		check(b, run.Apply(&other))
	})
}

// A batch of a rebuild as a whole: Begin, decoding, handlers, COPY.
func BenchmarkRebuild(b *testing.B) {
	set, err := projections.NewSet(bankEvents, accountsProjector, transactionsProjector)
	check(b, err)
	whole(b, set.Rebuild(), accountsOf(3000, history), func(context.Context, pgx.Tx) error { return nil })
}

// A batch of a catch-up as a whole, on accounts that have a history: Begin, loading their rows, decoding, handlers, and
// storing what has changed. There are 3 new events for an account.
func BenchmarkCatchUp(b *testing.B) {
	set, err := projections.NewSet(bankEvents, accountsProjector, transactionsProjector)
	check(b, err)
	events := accountsOf(fewAccounts, func(account int) []projections.Raw { return deposits(account, opening+1, opening+3) })
	whole(b, set.CatchUp(), events, func(ctx context.Context, tx pgx.Tx) error {
		run := set.Rebuild()
		if err := run.Begin(ctx, tx, nil); err != nil {
			return err
		}
		replay(b, run, accountsOf(fewAccounts, history))
		if _, err := run.Flush(); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "analyze accounts, transactions")
		return err
	})
}

// whole begins, applies and flushes. Before each round, and outside the timer, the tables are emptied and filled again.
func whole(b *testing.B, run *projections.Run, events []projections.Raw, fill func(ctx context.Context, tx pgx.Tx) error) {
	var ids []projections.ID
	for i, e := range events {
		if i == 0 || e.AggregateID != events[i-1].AggregateID {
			ids = append(ids, e.AggregateID)
		}
	}
	rounds(b, events, func(tx pgx.Tx, events []projections.Raw) {
		b.StopTimer()
		_, err := tx.Exec(b.Context(), "truncate accounts, transactions")
		check(b, err)
		check(b, fill(b.Context(), tx))
		b.StartTimer()
		check(b, run.Begin(b.Context(), tx, ids))
		replay(b, run, events)
		_, err = run.Flush()
		check(b, err)
	})
}

// A deposit projected in a transaction of its own: its share of begin, commit, catalog, loading and storing.
func BenchmarkProject(b *testing.B) {
	pool := pgtest.Database(b, setupBank)
	set, err := projections.NewSet(bankEvents, accountsProjector, transactionsProjector)
	check(b, err)
	project := func(position int64, data any) {
		check(b, pgx.BeginFunc(b.Context(), pool, func(tx pgx.Tx) error {
			return set.Project(b.Context(), projections.Pgx(tx), projections.New{
				Meta: projections.Meta{Position: position, Sequence: position, AggregateID: projections.UUID([16]byte{byte(position % 100)})},
				Data: data,
			})
		}))
	}
	for i := range 100 {
		project(int64(i), opened{IBAN: fmt.Sprint(i)})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		project(int64(100+i), deposited{Amount: 5})
	}
}
