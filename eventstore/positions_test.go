package eventstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// byTransaction is a store whose positions are transaction ids.
const byTransaction = `create table events (
	position bigint default pg_current_xact_id()::text::bigint, aggregate_id text not null, sequence_number int not null,
	event_type text not null, data jsonb not null, primary key (aggregate_id, sequence_number))`

func insertEvent(aggregate string, sequence int) string {
	return fmt.Sprintf("insert into events (aggregate_id, sequence_number, event_type, data) values ('%s', %d, 'Opened', '{}')", aggregate, sequence)
}

// The cut is below every transaction that is open, whether it has written or not, and waits for none.
func TestCutOfTransactions(t *testing.T) {
	t.Parallel()
	for name, writer := range map[string]string{
		"insert":                   insertEvent("late", 1),
		"an id and no event yet":   "select pg_current_xact_id()",
		"savepoint rolled back":    "savepoint s; " + insertEvent("late", 1) + "; rollback to s",
		"prepared transaction":     insertEvent("late", 1) + "; prepare transaction 'of_an_id'",
		"another table's":          "create table other (a int)",
		"events of two aggregates": insertEvent("late", 1) + "; " + insertEvent("later", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := store(t, byTransaction, insertEvent("a", 1), "update events set position = null", insertEvent("a", 2))
			conn, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			var xid int64
			if err := conn.QueryRow(t.Context(), "begin").Scan(); err != nil && !errors.Is(err, pgx.ErrNoRows) {
				t.Fatal(err)
			}
			if err := conn.QueryRow(t.Context(), "select pg_current_xact_id()::text::bigint").Scan(&xid); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(t.Context(), writer); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(t.Context(), insertEvent("a", 3)); err != nil { // it has a higher id, and is committed
				t.Fatal(err)
			}
			r := reader(t, db, eventstore.Mapping{Positions: eventstore.PositionsOfTransactions})
			cut, err := r.Settle(t.Context(), db, eventstore.Wait{})
			if err != nil || cut.Position < 1 || cut.Position >= xid || cut.Drawn < xid || cut.Reason != "" {
				t.Errorf("cut %+v with transaction %d open, %v", cut, xid, err)
			}
			end := "commit"
			if strings.Contains(writer, "prepare ") {
				end = "commit prepared 'of_an_id'"
			}
			if _, err := conn.Exec(t.Context(), end); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Events of one position are told apart by their aggregates, and those without come before all others.
func TestSharedPositions(t *testing.T) {
	t.Parallel()
	db := store(t, byTransaction, insertEvent("a", 1)+";"+insertEvent("b", 1), "update events set position = null",
		"begin;"+insertEvent("a", 2)+";"+insertEvent("a", 3)+";"+insertEvent("b", 2)+"; commit",
		"create table ledger (position bigint, aggregate_id text)",
		"insert into ledger select distinct position, aggregate_id from events where aggregate_id = 'a' and position is not null",
		"insert into ledger values (1, 'b')")
	r := reader(t, db, eventstore.Mapping{Positions: eventstore.PositionsOfTransactions})
	if !r.SharedPositions() {
		t.Error("positions are shared")
	}
	for want, sel := range map[string]eventstore.Selection{
		"[a1 a2 a3 b1 b2]": {},
		"[a1 b2]":          {Except: "ledger"},
		"[b2]":             {Except: "ledger", After: 1},
		"[a2 a3 b2]":       {After: 1},
		"[a1 b1]":          {UpTo: 1},
		"[b1 b2]":          {Types: []string{}, AllAbove: 0, Aggregates: []projections.ID{projections.Text("b")}},
	} {
		inTx(t, db, func(tx pgx.Tx) {
			var got []string
			for e, err := range r.Events(t.Context(), tx, sel) {
				if err != nil {
					t.Fatal(err)
				}
				if first := e.Sequence == 1; first != (e.Position == 1) {
					t.Errorf("%s %d has the position %d", e.AggregateID, e.Sequence, e.Position)
				}
				got = append(got, fmt.Sprintf("%s%d", e.AggregateID, e.Sequence))
			}
			if fmt.Sprint(got) != want {
				t.Errorf("%+v: got %v, want %s", sel, got, want)
			}
		})
	}
}

// Transaction ids that the server has yet to give out are refused, and what the message says to type mends it.
func TestTransactionsOfAnotherServer(t *testing.T) {
	t.Parallel()
	db := store(t, byTransaction, insertEvent("a", 1), "update events set position = pg_current_xact_id()::text::bigint + 1000000", insertEvent("a", 2))
	r := reader(t, db, eventstore.Mapping{Positions: eventstore.PositionsOfTransactions})
	_, err := r.Settle(t.Context(), db, eventstore.Wait{})
	if !errors.Is(err, eventstore.ErrMapping) || !strings.Contains(err.Error(), "copied from another server") {
		t.Fatalf("got %v", err)
	}
	if whyNot, err := r.ForeignTransactions(t.Context(), db); err != nil || !strings.Contains(whyNot, "copied from another server") {
		t.Errorf("%q, %v", whyNot, err)
	}
	_, remedy, _ := strings.Cut(err.Error(), "update ")
	remedy = "update " + remedy
	if tag, err := db.Exec(t.Context(), remedy); err != nil || tag.RowsAffected() != 1 {
		t.Fatalf("%s: %s, %v", remedy, tag, err)
	}
	if _, err := r.Settle(t.Context(), db, eventstore.Wait{}); err != nil {
		t.Error(err)
	}
	// The same is an event that is seen while its transaction, by its id, is open.
	inTx(t, db, func(tx pgx.Tx) {
		var xid int64
		if err := tx.QueryRow(t.Context(), "select pg_current_xact_id()::text::bigint").Scan(&xid); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(t.Context(), "update events set position = $1 where sequence_number = 2", xid); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Settle(t.Context(), db, eventstore.Wait{}); !errors.Is(err, eventstore.ErrMapping) {
			t.Errorf("got %v", err)
		}
	})
}

// Where positions are in commit order, the cut is the highest of an event, and no writer is waited for.
func TestCutInCommitOrder(t *testing.T) {
	t.Parallel()
	db := store(t, "create table events (position bigint, aggregate_id text, sequence_number int, event_type text, data jsonb)",
		"insert into events values (1, 'a', 1, 'Opened', '{}'), (3, 'b', 1, 'Opened', '{}'), (7, 'c', 1, 'Linked', '{}')")
	r := reader(t, db, eventstore.Mapping{Positions: eventstore.PositionsInCommitOrder, Where: "e.event_type <> 'Linked'"})
	inTx(t, db, func(tx pgx.Tx) {
		if _, err := tx.Exec(t.Context(), "insert into events values (4, 'd', 1, 'Opened', '{}')"); err != nil {
			t.Fatal(err)
		}
		cut, err := r.Settle(t.Context(), db, eventstore.Wait{})
		if err != nil || cut.Position != 3 || cut.Reason != "" {
			t.Errorf("%+v, %v", cut, err)
		}
	})
	if reason, err := r.Distrust(t.Context(), db); err != nil || reason != "" {
		t.Errorf("%q, %v", reason, err)
	}
}

// What is above a cut is found with the index of the positions, whatever their type. Seen to fail with the column cast.
func TestIndexOfPositions(t *testing.T) {
	t.Parallel()
	const columns = ", aggregate_id text, sequence_number int, event_type text, data jsonb)"
	for name, test := range map[string]struct {
		columns string
		m       eventstore.Mapping
	}{
		"int":             {"position int", eventstore.Mapping{}},
		"bigint":          {"position bigint", eventstore.Mapping{}},
		"transaction ids": {"position bigint", eventstore.Mapping{Positions: eventstore.PositionsOfTransactions}},
		"with a join":     {"position bigint", eventstore.Mapping{Join: "left join types t on t.name = e.event_type", AggregateType: "(t.class)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := store(t, "create table types (name text primary key, class text)", "create table events ("+test.columns+columns,
				"insert into events select i, i::text, 1, 'Opened', '{}' from generate_series(1, 20000) i", "create index on events (position)", "analyze events")
			sql, args := reader(t, db, test.m).EventsSQL(eventstore.Selection{After: 19_990})
			rows, _ := db.Query(t.Context(), "explain "+sql, args...)
			plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil || !strings.Contains(strings.Join(plan, "\n"), "events_position_idx") {
				t.Errorf("%v\n%s", err, strings.Join(plan, "\n"))
			}
		})
	}
}
