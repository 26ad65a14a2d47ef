package projectiontest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgcluster"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/projections/projectiontest"
)

// database is a new database with what the SQL makes.
func database(t *testing.T, sql string) *pgxpool.Pool {
	t.Helper()
	cluster, err := pgcluster.Shared()
	if err != nil {
		t.Fatal(err)
	}
	name, err := cluster.Create(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	cluster.DropAfter(t, name)
	pool, err := cluster.Pool(t, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	return pool
}

// textEvents is a table that the zero mapping does not fit, with a column for everything.
const textEvents = `
create schema app;
create table app."Log" (
  id serial primary key, stream varchar(40) not null, no int not null, kind text not null, body text not null, at timestamp not null default now(),
  of_type text, meta jsonb, version int, tenant text, customer uuid, unique (no, stream))`

var textMapping = eventstore.Mapping{
	Relation: `app."Log"`, Position: "id", AggregateID: "stream", Sequence: "no", Type: "kind", Data: "body", Time: "at",
	AggregateType: "of_type", Metadata: "meta", SchemaVersion: "version", Tenant: "tenant", Partition: "customer",
}

const sequentEvents = `
create table event_records (
  id serial primary key, aggregate_id uuid not null, sequence_number int not null, created_at timestamp not null default now(),
  event_type varchar not null, event_json text not null);
create unique index on event_records (aggregate_id, sequence_number)`

// stores are all event stores, empty.
func stores(t *testing.T, test func(t *testing.T, store projectiontest.Events)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, projectiontest.NewMemoryEvents())
	})
	for name, table := range map[string]struct {
		sql     string
		mapping eventstore.Mapping
	}{
		"table":          {bank.EventTable, eventstore.Mapping{}},
		"mapped table":   {textEvents, textMapping},
		"preset's table": {sequentEvents, eventstore.Mapping{Preset: "sequent"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := projectiontest.NewTableEvents(t.Context(), database(t, table.sql), table.mapping)
			if err != nil {
				t.Fatal(err)
			}
			test(t, store)
		})
	}
}

func deposit(id [16]byte, sequence, amount int64) projections.New {
	return projections.New{
		Meta: projections.Meta{AggregateID: projections.Text(projections.UUID(id).String()), Sequence: sequence, Type: "MoneyDeposited", Time: projectiontest.At(sequence)},
		Data: bank.Deposited{Amount: amount},
	}
}

// TestEvents holds the event stores against one list of expectations.
func TestEvents(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, store projectiontest.Events) {
		ctx := t.Context()
		if events, err := store.Read(ctx, 0); err != nil || len(events) != 0 {
			t.Fatalf("an empty store: %v, %v", events, err)
		}
		first, err := store.Append(ctx, deposit(anna, 1, 10), deposit(ben, 1, 20))
		if err != nil {
			t.Fatal(err)
		}
		if first[0].Position != 1 || first[1].Position != 2 || first[1].Data != (bank.Deposited{Amount: 20}) {
			t.Errorf("appended %v", first)
		}
		// None of it is stored, though the first event could be; the positions are lost, as those of a sequence are.
		_, err = store.Append(ctx, deposit(anna, 2, 11), deposit(ben, 1, 21), deposit(ben, 2, 22))
		if conflict, ok := errors.AsType[*projectiontest.ConflictError](err); !ok || !errors.Is(err, projectiontest.ErrConflict) ||
			conflict.Sequence != 1 || conflict.AggregateID.String() != projections.UUID(ben).String() {
			t.Errorf("a sequence number that is taken: %v", err)
		}
		if _, err = store.Append(ctx, deposit(anna, 3, 11), deposit(anna, 3, 12)); !errors.Is(err, projectiontest.ErrConflict) {
			t.Errorf("a sequence number twice: %v", err)
		}
		second, err := store.Append(ctx, deposit(anna, 2, 11), deposit(anna, 3, 12))
		if err != nil || second[0].Position != 7 {
			t.Fatalf("got %v, %v; want it at position 7", second, err)
		}
		for _, c := range []struct {
			after      int64
			aggregates []projections.ID
			want       string
		}{
			{0, nil, "1 anna#1 10, 2 ben#1 20, 7 anna#2 11, 8 anna#3 12"},
			{0, []projections.ID{first[0].AggregateID}, "1 anna#1 10, 7 anna#2 11, 8 anna#3 12"},
			{2, nil, "7 anna#2 11, 8 anna#3 12"},
			{1, []projections.ID{first[0].AggregateID, first[1].AggregateID}, "2 ben#1 20, 7 anna#2 11, 8 anna#3 12"},
			{8, nil, ""},
		} {
			if got := read(t, store, c.after, c.aggregates...); got != c.want {
				t.Errorf("after %d of %v: got %s, want %s", c.after, c.aggregates, got, c.want)
			}
		}
		for failure, e := range map[string]projections.New{
			"no aggregate id":         {Meta: projections.Meta{Type: "MoneyDeposited", Sequence: 9}},
			"no type":                 {Meta: projections.Meta{AggregateID: first[0].AggregateID, Sequence: 9}},
			"has position 5 already":  {Meta: projections.Meta{AggregateID: first[0].AggregateID, Sequence: 9, Type: "T", Position: 5}},
			"T: encode the payload: ": {Meta: projections.Meta{AggregateID: first[0].AggregateID, Sequence: 9, Type: "T"}, Data: func() {}},
		} {
			if _, err := store.Append(ctx, e); err == nil || !strings.Contains(err.Error(), failure) {
				t.Errorf("got %v, want: %s", err, failure)
			}
		}
		raw := deposit(ben, 2, 0)
		raw.Data, raw.Time = json.RawMessage(`{"amount": 5}`), time.Time{}
		last, err := store.Append(ctx, raw)
		if err != nil || last[0].Time.IsZero() || last[0].Time.Location() != time.UTC {
			t.Errorf("got %v, %v; want a time that the store has filled in", last, err)
		}
		if got := read(t, store, last[0].Position-1); !strings.HasSuffix(got, "ben#2 5") {
			t.Errorf("got %s", got)
		}
	})
}

// read prints what is in a store.
func read(t *testing.T, store projectiontest.Events, after int64, aggregates ...projections.ID) string {
	t.Helper()
	events, err := store.Read(t.Context(), after, aggregates...)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range events {
		var data bank.Deposited
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		name := map[string]string{projections.UUID(anna).String(): "anna", projections.UUID(ben).String(): "ben"}[e.AggregateID.String()]
		if string(e.Type) != "MoneyDeposited" || e.Time != projectiontest.At(e.Sequence) && data.Amount != 5 {
			t.Errorf("got %s at %v", e.Type, e.Time)
		}
		list = append(list, fmt.Sprintf("%d %s#%d %d", e.Position, name, e.Sequence, data.Amount))
	}
	return strings.Join(list, ", ")
}

// Of several that append an aggregate's next event at once, one succeeds, and the others can go on from what it did.
func TestEventsOfManyWriters(t *testing.T) {
	t.Parallel()
	const writers, rounds = 4, 5
	stores(t, func(t *testing.T, store projectiontest.Events) {
		var wait sync.WaitGroup
		for writer := range writers {
			wait.Go(func() {
				for round := range rounds {
					if err := appendNext(t.Context(), store, int64(100*writer+round)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wait.Wait()
		events, err := store.Read(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) != writers*rounds {
			t.Errorf("%d events, want %d", len(events), writers*rounds)
		}
		if !slices.IsSortedFunc(events, func(a, b projections.Raw) int { return cmp.Compare(a.Position, b.Position) }) {
			t.Error("not in the order of positions")
		}
		for i, e := range events {
			if e.Sequence != int64(i+1) {
				t.Errorf("event %d has sequence number %d", i, e.Sequence)
			}
		}
	})
}

func appendNext(ctx context.Context, store projectiontest.Events, amount int64) error {
	for {
		events, err := store.Read(ctx, 0, projections.Text(projections.UUID(anna).String()))
		if err != nil {
			return err
		}
		if _, err := store.Append(ctx, deposit(anna, int64(len(events)+1), amount)); !errors.Is(err, projectiontest.ErrConflict) {
			return err
		}
	}
}

// All that an event can have is stored and read again.
func TestEventsWithEverything(t *testing.T) {
	t.Parallel()
	full := projections.New{
		Meta: projections.Meta{
			AggregateID: projections.Text("an id"), Sequence: 3, Type: "T", Time: time.Date(2024, 5, 6, 7, 8, 9, 123_456_789, time.FixedZone("", 3600)),
			AggregateType: "Account", Metadata: []byte(`{"by": "Anna"}`), SchemaVersion: "2", Tenant: "t", Partition: projections.UUID(ben),
		},
		Data: "[]",
	}
	pool := database(t, textEvents)
	table, err := projectiontest.NewTableEvents(t.Context(), pool, textMapping)
	if err != nil {
		t.Fatal(err)
	}
	var got [2]projections.Raw
	for i, store := range []projectiontest.Events{projectiontest.NewMemoryEvents(), table} {
		if _, err := store.Append(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		events, err := store.Read(t.Context(), 0)
		if err != nil || len(events) != 1 {
			t.Fatal(events, err)
		}
		got[i] = events[0]
		got[i].Partition = projections.ID{}
	}
	var customer [16]byte
	if err := pool.QueryRow(t.Context(), `select customer from app."Log"`).Scan(&customer); err != nil || customer != ben {
		t.Errorf("the partition is stored as %v, %v", customer, err)
	}
	if !reflect.DeepEqual(got[0], got[1]) {
		t.Errorf("in memory %+v\nin a table %+v", got[0], got[1])
	}
	if e := got[1]; e.Time != time.Date(2024, 5, 6, 6, 8, 9, 123_456_000, time.UTC) || string(e.Metadata) != `{"by": "Anna"}` {
		t.Errorf("got %+v", e)
	}
}

// In a transaction of the application, events come and go with it, also after a conflict.
func TestEventsInATransaction(t *testing.T) {
	t.Parallel()
	pool := database(t, bank.EventTable)
	store, err := projectiontest.NewTableEvents(t.Context(), pool, eventstore.Mapping{})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	for _, want := range []error{nil, projectiontest.ErrConflict} {
		if _, err := store.In(tx).Append(t.Context(), deposit(anna, 1, 10)); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if got := read(t, store.In(tx), 0); got != "1 anna#1 10" {
		t.Errorf("inside: %s", got)
	}
	if got := read(t, store, 0); got != "" {
		t.Errorf("outside: %s", got)
	}
}

func TestTablesThatAreNoEventStoreForTests(t *testing.T) {
	t.Parallel()
	pool := database(t, bank.EventTable+`
		create view recent as select * from events;
		create table loose (position bigint generated always as identity, aggregate_id uuid, sequence_number int, event_type text, data json);
		create table given (position bigint, aggregate_id uuid, sequence_number int, event_type text, data json, unique (aggregate_id, sequence_number))`)
	for want, m := range map[string]eventstore.Mapping{
		"public.recent cannot be appended to: it is a view":                                                  {Relation: "recent"},
		"public.events cannot be appended to: its mapping has a Join; an event store for tests is one table": {Join: "cross join (select) j"},
		"(data -> 'd') is no column of it":                                                                   {Data: "(data -> 'd')"},
		"the position (position + 1) is no column of it":                                                     {Position: "(position + 1)"},
		"column position has no default that draws a position":                                               {Relation: "given"},
		`type: create unique index on public.loose ("aggregate_id", "sequence_number")`:                      {Relation: "loose"},
		"database " + pool.Config().ConnConfig.Database + " has no relation nothing that our role can see":   {Relation: "nothing"},
	} {
		_, err := projectiontest.NewTableEvents(t.Context(), pool, m)
		if !errors.Is(err, eventstore.ErrMapping) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	some, err := projectiontest.NewTableEvents(t.Context(), pool, eventstore.Mapping{Where: "event_type <> 'MoneyDeposited'"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := some.Append(t.Context(), deposit(anna, 1, 10)); err == nil || !strings.Contains(err.Error(), "leaves some of these events out") {
		t.Errorf("an event that Where hides: %v", err)
	}
	conn, err := pgx.Connect(t.Context(), pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := projectiontest.NewTableEvents(t.Context(), conn, eventstore.Mapping{}); err != nil {
		t.Error(err)
	}
}
