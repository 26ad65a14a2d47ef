package eventstore_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
)

// A Scan sorts if it is to, where the planner would follow an index, and in the memory that it is given, or in work_mem if that is less. What
// does not fit is in a temporary file.
func TestScanSorts(t *testing.T) {
	t.Parallel()
	db := store(t, table("uuid"),
		`insert into events (aggregate_id, sequence_number, event_type, data)
		select lpad(to_hex(i / 3), 32, '0')::uuid, i, 'Moved', '{}' from generate_series(1, 50000) i`,
		"analyze events")
	r := reader(t, db, eventstore.Mapping{})
	for name, c := range map[string]struct {
		workMem string
		sorting eventstore.Sorting
		spills  bool
	}{
		"follows an index": {"1MB", eventstore.Sorting{}, false},
		"in little":        {"1MB", eventstore.Sorting{Always: true}, true},
		"in much":          {"64MB", eventstore.Sorting{Always: true}, false},
		"in less":          {"64MB", eventstore.Sorting{Always: true, Memory: 1 << 20}, true},
		"in no more":       {"1MB", eventstore.Sorting{Always: true, Memory: 64 << 20}, true},
	} {
		inTx(t, db, func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), "select set_config('work_mem', $1, true), set_config('random_page_cost', '1', true)", c.workMem)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range r.Scan(t.Context(), tx, eventstore.Selection{Sorting: c.sorting}) {
				if err != nil {
					t.Fatal(err)
				}
				var spills bool
				err := db.QueryRow(t.Context(), "select count(*) > 0 from pg_ls_tmpdir() where name like 'pgsql_tmp' || $1::int8 || '.%'",
					int64(tx.Conn().PgConn().PID())).Scan(&spills)
				if err != nil || spills != c.spills {
					t.Errorf("%s: temporary files: %v, want %v; %v", name, spills, c.spills, err)
				}
				break
			}
		})
	}
}

// Tables in memory are sorted, and text ids in little of it.
func TestSorting(t *testing.T) {
	t.Parallel()
	const gb = 1 << 30
	inMemory := eventstore.Layout{Bytes: gb, Cache: 4 * gb, Rows: 5_000_000}
	for name, c := range map[string]struct {
		idType  string
		mapping eventstore.Mapping
		layout  eventstore.Layout
		want    eventstore.Sorting
	}{
		"uuid":             {"uuid", eventstore.Mapping{}, inMemory, eventstore.Sorting{Always: true}},
		"text":             {"text", eventstore.Mapping{}, inMemory, eventstore.Sorting{Always: true, Memory: 2 << 20}},
		"large events":     {"text", eventstore.Mapping{}, eventstore.Layout{Bytes: gb, Cache: 4 * gb, Rows: 500_000}, eventstore.Sorting{Always: true}},
		"exceeds memory":   {"text", eventstore.Mapping{}, eventstore.Layout{Bytes: 5 * gb, Cache: 4 * gb}, eventstore.Sorting{}},
		"half of memory":   {"text", eventstore.Mapping{}, eventstore.Layout{Bytes: 3 * gb, Cache: 4 * gb, Rows: 15_000_000}, eventstore.Sorting{Always: true}},
		"large parts":      {"text", eventstore.Mapping{}, eventstore.Layout{Bytes: 9 * gb, Cache: 40 * gb, Rows: 45_000_000}, eventstore.Sorting{Always: true}},
		"size not known":   {"uuid", eventstore.Mapping{}, eventstore.Layout{Cache: 4 * gb}, eventstore.Sorting{}},
		"a view may join":  {"uuid", eventstore.Mapping{Relation: "history"}, inMemory, eventstore.Sorting{}},
		"a mapping's join": {"uuid", eventstore.Mapping{Join: "cross join (select 1) one"}, inMemory, eventstore.Sorting{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := reader(t, store(t, table(c.idType), "create view history as select * from events"), c.mapping)
			if got := r.Sorting(c.layout, 8); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
