package projections_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

func memory(t testing.TB) *projections.Memory {
	t.Helper()
	set, err := projections.NewSet(bankEvents, accountsProjector, transactionsProjector)
	if err != nil {
		t.Fatal(err)
	}
	return set.Memory()
}

func rowsOf[R any](t testing.TB, m *projections.Memory) string {
	t.Helper()
	_, rows, err := m.Rows(reflect.TypeFor[R]())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(rows)
}

// A batch that fails leaves nothing behind, not even what its first events did, and the next batch goes on from there.
func TestMemoryAfterAnError(t *testing.T) {
	t.Parallel()
	m := memory(t)
	if err := m.Apply(t.Context(), ev(1, ada, 1, "AccountOpened", `{"owner_name":"Ada"}`), ev(2, ada, 2, "MoneyDeposited", `{"amount":5}`)); err != nil {
		t.Fatal(err)
	}
	accounts, transactions := rowsOf[account](t, m), rowsOf[transaction](t, m)
	err := m.Apply(t.Context(), ev(3, ada, 3, "MoneyDeposited", `{"amount":7}`), ev(4, bob, 1, "AccountOpened", `{}`), ev(5, bob, 2, "AccountOpened", `{}`))
	if failed, ok := errors.AsType[*projections.EventError](err); !ok || failed.Position != 5 || !errors.Is(err, projections.ErrExists) {
		t.Errorf("got %v, want ErrExists at event 5", err)
	}
	if got := rowsOf[account](t, m) + rowsOf[transaction](t, m); got != accounts+transactions {
		t.Errorf("got %s\nwant %s%s", got, accounts, transactions)
	}
	if err := m.Apply(t.Context(), ev(6, ada, 3, "MoneyDeposited", `{"amount":8}`)); err != nil {
		t.Fatal(err)
	}
	if got := rowsOf[account](t, m); !strings.Contains(got, " 13 3}") {
		t.Errorf("got %s, want a balance of 13 at version 3", got)
	}
}

// Aggregates have keys to themselves, unless the one has given a key up before the other takes it.
func TestMemoryKeysOfTwoAggregates(t *testing.T) {
	t.Parallel()
	m := memory(t)
	open := func(position int64, id uuid.UUID) []*projections.Raw {
		return []*projections.Raw{ev(1000, id, 1, "AccountOpened", `{}`), ev(position, id, 2, "MoneyDeposited", `{"amount":5}`)}
	}
	if err := m.Apply(t.Context(), open(7, ada)...); err != nil {
		t.Fatal(err)
	}
	before := rowsOf[transaction](t, m)
	err := m.Apply(t.Context(), open(7, bob)...)
	for _, want := range []string{"transactions", "7", ada.String(), bob.String()} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want table, key and both aggregates: %s", err, want)
		}
	}
	if got := rowsOf[transaction](t, m); got != before {
		t.Errorf("got %s, want %s", got, before)
	}
	if err := m.Apply(t.Context(), open(8, bob)...); err != nil {
		t.Errorf("bob, with a key of his own: %v", err)
	}
}

func TestMemoryKeyThatIsFreeAgain(t *testing.T) {
	t.Parallel()
	set := oddSet(t, numbers, func(s *projections.Store, e projections.Event[deposited]) error {
		id := e.AggregateID.String()
		if e.Data.Amount > 0 {
			return numbers.Delete(s, 1)
		}
		return numbers.Create(s, oddlyID{No: 1, R: id})
	})
	m := set.Memory()
	if err := m.Apply(t.Context(), ev(1, ada, 1, "D", `{}`), ev(2, ada, 2, "D", `{"amount":1}`), ev(3, bob, 1, "D", `{}`)); err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(t.Context(), ev(4, bob, 2, "D", `{"amount":1}`), ev(5, ada, 3, "D", `{}`)); err != nil {
		t.Fatal(err)
	}
	if got := rowsOf[oddlyID](t, m); strings.Count(got, "No. 1") != 2 || !strings.Contains(got, ada.String()) { // its key and itself
		t.Errorf("got %s, want one row, Ada's", got)
	}
}

func TestMemoryOfUnknownRows(t *testing.T) {
	t.Parallel()
	_, _, err := memory(t).Rows(reflect.TypeFor[person]())
	want := "no table has rows of projections_test.person; there are projections_test.account of table accounts, projections_test.transaction of table transactions"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// What was loaded is for reading: events would be applied to a part of the rows.
func TestMemoryThatWasLoaded(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	if _, err := apply(t.Context(), pool, set.Rebuild(), ev(1, ada, 1, "AccountOpened", `{"owner_name":"Ada"}`)); err != nil {
		t.Fatal(err)
	}
	m := set.Memory()
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return m.Load(t.Context(), projections.Pgx(tx)) }); err != nil {
		t.Fatal(err)
	}
	if got := rowsOf[account](t, m); !strings.Contains(got, "Ada") {
		t.Errorf("got %s", got)
	}
	if err := m.Apply(t.Context(), ev(2, ada, 2, "AccountClosed", `{}`)); err == nil || !strings.Contains(err.Error(), "for reading") {
		t.Errorf("got %v", err)
	}
	empty := pgtest.Database(t, nil)
	if err := pgx.BeginFunc(t.Context(), empty, func(tx pgx.Tx) error { return m.Load(t.Context(), projections.Pgx(tx)) }); err == nil ||
		!strings.Contains(err.Error(), "table accounts does not exist") {
		t.Errorf("without tables: %v", err)
	}
}

// An event that is applied in memory.
func BenchmarkMemory(b *testing.B) {
	m := memory(b)
	events := make([]projections.New, 0, opening)
	for account := 0; b.Loop(); {
		if len(events) == 0 {
			account++
			for seq := range opening {
				e := projections.New{Data: deposited{Amount: 1250, Description: "monthly contribution"}}
				if seq == 0 {
					e.Data = opened{Owner: "Ada Lovelace"}
				}
				raw := stored(account, seq+1, "", "")
				e.Meta = projections.Meta{Position: raw.Position, AggregateID: raw.AggregateID, Sequence: raw.Sequence, Time: raw.Time}
				events = append(events, e)
			}
		}
		e := events[0]
		events = events[1:]
		if err := m.Project(context.Background(), e); err != nil {
			b.Fatal(err)
		}
	}
}
