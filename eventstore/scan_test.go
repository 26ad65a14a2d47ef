package eventstore_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
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
			inTx(t, db, func(tx pgx.Tx) {
				var want []string
				for i, p := range parts {
					want = append(want, list(t, i, r.Events(t.Context(), tx, eventstore.Selection{Range: p.Range}))...)
				}
				for name, read := range map[string]func(context.Context, pgx.Tx, eventstore.Selection) iter.Seq2[*eventstore.Event, error]{
					"events": r.Events, "scan": r.Scan,
				} {
					if got := list(t, 0, read(t.Context(), tx, sel)); len(got) != 9000 || !slices.Equal(got, want) {
						t.Errorf("%s: %d events differ from %d that ranges read", name, len(got), len(want))
					}
				}
			})
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

// Between two fetches of a Scan the connection is free for whoever has the patience to leave the loop.
func TestScanIsLeft(t *testing.T) {
	t.Parallel()
	db := store(t, table("text"),
		`insert into events (aggregate_id, sequence_number, event_type, data) select 'a', i, 'Moved', '{}' from generate_series(1, 5000) i`)
	r := reader(t, db, eventstore.Mapping{})
	inTx(t, db, func(tx pgx.Tx) {
		for e, err := range r.Scan(t.Context(), tx, eventstore.Selection{}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Sequence == 3000 {
				break
			}
		}
		if n, err := r.Count(t.Context(), tx, eventstore.Selection{Aggregates: []projections.ID{projections.Text("a")}}); err != nil || n != 5000 {
			t.Errorf("%d events, %v", n, err)
		}
	})
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
