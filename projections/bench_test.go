package projections_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

// history is one account's: it is opened, renamed, and gets 28 deposits.
func history(account int) []projections.Raw {
	id := projections.UUID(uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, account)))
	at := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	var events []projections.Raw
	add := func(name, data string) {
		n := int64(len(events) + 1)
		events = append(events, projections.Raw{
			Position: int64(account)*100 + n, Sequence: n, AggregateID: id, Time: at, Type: []byte(name), Data: []byte(data),
		})
	}
	add("AccountOpened", fmt.Sprintf(`{"owner_name":"Ada Lovelace","iban":"NL%020d"}`, account))
	add("AccountRenamed", `{"owner_name":"Ada King, Countess of Lovelace"}`)
	for range 28 {
		add("MoneyDeposited", `{"amount":1250,"counterparty":"NL00BANK0123456789","description":"monthly contribution, second installment"}`)
	}
	return events
}

// An operation is an event: its decoding, handlers of both projectors, and its share of encoding. Storing is not timed.
func BenchmarkRebuild(b *testing.B) {
	benchmark(b, func(s *projections.Set) *projections.Run { return s.Rebuild() }, false)
}

// As above, with COPY and its share of Begin.
func BenchmarkRebuildStored(b *testing.B) {
	benchmark(b, func(s *projections.Set) *projections.Run { return s.Rebuild() }, true)
}

// BenchmarkCatchUp begins with empty tables.
func BenchmarkCatchUpStored(b *testing.B) {
	benchmark(b, func(s *projections.Set) *projections.Run { return s.CatchUp() }, true)
}

func benchmark(b *testing.B, start func(*projections.Set) *projections.Run, stored bool) {
	pool := pgtest.Database(b, setupBank)
	set, err := projections.NewSet(bankEvents, accountsProjector, transactionsProjector)
	if err != nil {
		b.Fatal(err)
	}
	var events []projections.Raw
	var ids []projections.ID
	for i := range 3000 {
		events = append(events, history(i)...)
		ids = append(ids, events[len(events)-1].AggregateID)
	}
	tx, err := pool.Begin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = tx.Rollback(b.Context()) }()
	run := start(set)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; {
		batch(b, tx, run, ids, func() error {
			n := min(b.N-i, len(events))
			for j := range events[:n] {
				if err := run.Apply(&events[j]); err != nil {
					return err
				}
			}
			i += n
			if !stored {
				return nil
			}
			_, err := run.Flush()
			return err
		})
		if stored {
			b.StopTimer()
			if _, err := tx.Exec(b.Context(), "truncate accounts, transactions"); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
}

func batch(b *testing.B, tx pgx.Tx, run *projections.Run, ids []projections.ID, apply func() error) {
	b.Helper()
	err := run.Begin(b.Context(), tx, ids)
	if err == nil {
		err = apply()
	}
	if err != nil {
		b.Fatal(err)
	}
}

// An operation is a deposit projected in a transaction of its own: its share of begin, commit, catalog, loading and
// storing.
func BenchmarkProject(b *testing.B) {
	pool := pgtest.Database(b, setupBank)
	set, err := projections.NewSet(bankEvents, accountsProjector, transactionsProjector)
	if err != nil {
		b.Fatal(err)
	}
	project := func(position int64, data any) {
		if err := pgx.BeginFunc(b.Context(), pool, func(tx pgx.Tx) error {
			return set.Project(b.Context(), projections.Pgx(tx), projections.New{
				Meta: projections.Meta{Position: position, Sequence: position, AggregateID: projections.UUID([16]byte{byte(position % 100)})},
				Data: data,
			})
		}); err != nil {
			b.Fatal(err)
		}
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
