package eventstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// A statement and a cursor, which fetches several times, read the same events; each of these says to which part it
// belongs, and the parts are what ranges with the same bounds hold.
func TestParts(t *testing.T) {
	t.Parallel()
	for idType, id := range map[string]string{
		"uuid": "md5((i % 701)::text)::uuid",
		"text": "case when i % 2 = 0 then 'a' else 'B' end || (i % 701)",
	} {
		t.Run(idType, func(t *testing.T) {
			t.Parallel()
			db := store(t, table(idType),
				`insert into events (aggregate_id, sequence_number, event_type, data)
				select `+id+`, i, 'Moved', jsonb_build_object('i', i) from generate_series(1, 9000) i`)
			r := reader(t, db, eventstore.Mapping{})
			parts, err := r.Split(t.Context(), db, 700)
			if err != nil {
				t.Fatal(err)
			}
			if len(parts) < 10 {
				t.Fatalf("%d parts are too few for this test", len(parts))
			}
			sel := eventstore.Selection{}
			for _, p := range parts[1:] {
				sel.Bounds = append(sel.Bounds, p.From)
			}
			var want []string
			inTx(t, db, func(tx pgx.Tx) {
				for i, p := range parts {
					want = append(want, list(t, i, r.Events(t.Context(), tx, eventstore.Selection{Range: p.Range}))...)
				}
			})
			for name, read := range map[string]func(context.Context, pgx.Tx, eventstore.Selection) iter.Seq2[*eventstore.Event, error]{
				"events": r.Events, "scan": r.Scan, "scan of what is far away": farAway(r),
			} {
				inTx(t, db, func(tx pgx.Tx) {
					if got := list(t, 0, read(t.Context(), tx, sel)); len(got) != 9000 || !slices.Equal(got, want) {
						t.Errorf("%s: %d events differ from %d that ranges read", name, len(got), len(want))
					}
				})
			}
		})
	}
}

// list writes events, with so much added to the number of their part.
func list(t *testing.T, part int, events iter.Seq2[*eventstore.Event, error]) (all []string) {
	t.Helper()
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%d %s %d %s", part+e.Part, e.AggregateID, e.Sequence, e.Data))
	}
	return all
}

// farAway is Scan where the round trip is long.
func farAway(r *eventstore.Reader) func(context.Context, pgx.Tx, eventstore.Selection) iter.Seq2[*eventstore.Event, error] {
	return func(ctx context.Context, tx pgx.Tx, sel eventstore.Selection) iter.Seq2[*eventstore.Event, error] {
		return r.ScanAhead(ctx, tx, sel, 3)
	}
}

// When the loop over a Scan is left, the connection is free, whatever is still on its way.
func TestScanIsLeft(t *testing.T) {
	t.Parallel()
	db := store(t, table("text"),
		`insert into events (aggregate_id, sequence_number, event_type, data) select 'a', i, 'Moved', '{}' from generate_series(1, 12000) i`)
	r := reader(t, db, eventstore.Mapping{})
	for _, scan := range []func(context.Context, pgx.Tx, eventstore.Selection) iter.Seq2[*eventstore.Event, error]{r.Scan, farAway(r)} {
		inTx(t, db, func(tx pgx.Tx) {
			for e, err := range scan(t.Context(), tx, eventstore.Selection{}) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Sequence == 3000 {
					break
				}
			}
			if n, err := r.Count(t.Context(), tx, eventstore.Selection{Aggregates: []projections.ID{projections.Text("a")}}); err != nil || n != 12000 {
				t.Errorf("%d events, %v", n, err)
			}
		})
	}
}

// Who leaves the loop over a Scan hears nothing more of it, not even that its connection is lost: a loop that were to go on would panic.
func TestScanIsLeftForGood(t *testing.T) {
	t.Parallel()
	db := store(t, table("text"),
		`insert into events (aggregate_id, sequence_number, event_type, data) select 'a', i, 'Moved', '{}' from generate_series(1, 12000) i`)
	r := reader(t, db, eventstore.Mapping{})
	for _, scan := range []func(context.Context, pgx.Tx, eventstore.Selection) iter.Seq2[*eventstore.Event, error]{r.Scan, farAway(r)} {
		ctx, cancel := context.WithCancel(t.Context())
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			for _, err := range scan(ctx, tx, eventstore.Selection{}) {
				cancel()
				return errors.Join(err, ctx.Err())
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// An error in the middle comes after the events before it, once, and the transaction can be rolled back.
func TestScanFails(t *testing.T) {
	t.Parallel()
	db := store(t, table("uuid"),
		`insert into events (aggregate_id, sequence_number, event_type, data) select '00000000-0000-4000-8000-00000000000a', i, 'Moved', '{}' from generate_series(1, 9000) i`,
		`create view broken as select * from events where 1 / (sequence_number - 5000) <> 2`)
	r := reader(t, db, eventstore.Mapping{Relation: "broken"})
	for _, scan := range []func(context.Context, pgx.Tx, eventstore.Selection) iter.Seq2[*eventstore.Event, error]{r.Scan, farAway(r)} {
		err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "set local enable_sort = off"); err != nil { // it would fail before the first event
				return err
			}
			var failed error
			events := 0
			for e, err := range scan(t.Context(), tx, eventstore.Selection{}) {
				switch {
				case failed != nil:
					t.Errorf("%v, %v after the error", e, err)
				case err != nil:
					failed = err
				default:
					events++
				}
			}
			if events < 2*eventstore.Fetched || events >= 5000 {
				t.Errorf("%d events before the error", events)
			}
			return failed
		})
		if !pg.IsDivisionByZero(err) {
			t.Errorf("%v", err)
		}
		if err := db.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Where the round trip is long, a Scan asks for the next rows before the last have come.
func TestScanAsksAhead(t *testing.T) {
	t.Parallel()
	db := store(t, table("text"),
		`insert into events (aggregate_id, sequence_number, event_type, data) select 'a', i, 'Moved', '{}' from generate_series(1, 9000) i`)
	r := reader(t, db, eventstore.Mapping{})
	for _, ahead := range []int{0, 3} {
		asked := 0
		config := db.Config().ConnConfig.Copy()
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			return spy{c, func(sent []byte) { asked += bytes.Count(sent, []byte("fetch ")) }}, err
		}
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			var n int
			for _, err := range r.ScanAhead(t.Context(), tx, eventstore.Selection{}, ahead) {
				if err != nil {
					return err
				}
				if want := 1 + ahead + n/eventstore.Fetched; asked != want {
					return fmt.Errorf("%d fetches were asked for before event %d came, want %d", asked, n, want)
				}
				n++
			}
			return nil
		})
		if err != nil {
			t.Errorf("%d ahead: %v", ahead, err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// spy is told what is sent.
type spy struct {
	net.Conn
	sent func([]byte)
}

func (s spy) Write(p []byte) (int, error) {
	s.sent(p)
	return s.Conn.Write(p)
}

// What is on its way is about what a server hands out in a round trip, and not without bounds.
func TestAhead(t *testing.T) {
	t.Parallel()
	for roundTrip, want := range map[time.Duration]int{
		50 * time.Microsecond: 0, time.Millisecond: 1, 10 * time.Millisecond: 3, 50 * time.Millisecond: 11, time.Second: 15,
	} {
		if got := eventstore.Ahead(roundTrip); got != want {
			t.Errorf("%s: %d fetches ahead, want %d", roundTrip, got, want)
		}
	}
}

func TestLayout(t *testing.T) {
	t.Parallel()
	db := store(t, table("uuid"),
		`insert into events (aggregate_id, sequence_number, event_type, data)
		select lpad(to_hex(i / 3), 32, '0')::uuid, i % 3, 'Moved', '{}' from generate_series(0, 29999) i`,
		"analyze events",
		`create table partitioned (like events) partition by hash (aggregate_id)`,
		`create table part_0 partition of partitioned for values with (modulus 2, remainder 0)`,
		`create table part_1 partition of partitioned for values with (modulus 2, remainder 1)`,
		`insert into partitioned select * from events`, "analyze partitioned",
		`create table heirs (like events)`, `create table heir () inherits (heirs)`, `insert into heir select * from events`, "analyze heirs, heir",
		`create view history as select * from events`)
	for _, relation := range []string{"events", "history", "partitioned", "heirs"} {
		l, err := reader(t, db, eventstore.Mapping{Relation: relation}).Layout(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		indexed := relation == "events" || relation == "history"
		if l.Bytes < 1<<20 || l.Rows/10 != 3_000 || l.Correlation < 0.99 || l.Indexed != indexed || !l.Cached() {
			t.Errorf("%s: %+v", relation, l)
		}
	}
}

// Of a large store the numbers come from a sample, and are about right; all of it is read if that is asked for.
func TestTypes(t *testing.T) {
	t.Parallel()
	db := store(t, table("text"),
		`insert into events (aggregate_id, sequence_number, event_type, data)
		select i, 1, case when i % 4 = 0 then 'Moved' else 'Stayed' end, '{}' from generate_series(1, 200000) i`,
		"analyze events")
	r := reader(t, db, eventstore.Mapping{})
	for _, all := range []bool{false, true} {
		types, exact, err := r.Types(t.Context(), db, all)
		if err != nil || len(types) != 2 || exact != all {
			t.Fatalf("all: %v: %v, exactly: %v, %v", all, types, exact, err)
		}
		if n := types[0].Events; n < 40_000 || n > 60_000 || all && n != 50_000 {
			t.Errorf("all: %v: %v", all, types)
		}
	}
}
