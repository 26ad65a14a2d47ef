package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// table is an event table with ids of the given type.
func table(idType string) string {
	return `create table events (
		position bigint generated always as identity primary key, aggregate_id ` + idType + ` not null, sequence_number int not null,
		event_type text not null, data jsonb not null, created_at timestamptz not null default now(), unique (aggregate_id, sequence_number))`
}

// store is a database with an event table that sql makes and fills.
func store(t *testing.T, sql ...string) *pgxpool.Pool {
	t.Helper()
	db := pgtest.Database(t, nil)
	for _, s := range sql {
		if _, err := db.Exec(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func reader(t *testing.T, db *pgxpool.Pool, m eventstore.Mapping) *eventstore.Reader {
	t.Helper()
	r, err := eventstore.Open(t.Context(), db, m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// inTx runs fn in a transaction that is rolled back.
func inTx(t *testing.T, db *pgxpool.Pool, fn func(tx pgx.Tx)) {
	t.Helper()
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tx.Rollback(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	fn(tx)
}

// What does not fit is said, all at once.
func TestMappingErrors(t *testing.T) {
	t.Parallel()
	db := store(t, "create table events (position text, aggregate_id int, event_type text, data jsonb); create sequence s")
	for _, test := range []struct {
		mapping eventstore.Mapping
		want    []string
	}{
		{eventstore.Mapping{Relation: "nowhere.events"}, []string{"has no relation nowhere.events"}},
		{eventstore.Mapping{Relation: "s"}, []string{"neither a table nor a view"}},
		{eventstore.Mapping{}, []string{"public.events.position is text; the position must be int8, int4", "aggregate_id is int4", `no column "sequence_number"`}},
	} {
		_, err := eventstore.Open(t.Context(), db, test.mapping)
		if !errors.Is(err, eventstore.ErrMapping) {
			t.Fatalf("%+v: %v", test.mapping, err)
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v:\n%v\nlacks %s", test.mapping, err, want)
			}
		}
	}
}

// A role that may not read the events is told what to type, and not only that something was denied.
func TestEventsMayNotBeRead(t *testing.T) {
	t.Parallel()
	db := store(t, table("text"))
	role := fmt.Sprintf("stranger_%d", rand.Uint64())
	inTx(t, db, func(tx pgx.Tx) {
		if _, err := tx.Exec(t.Context(), "create role "+role+"; set local role "+role); err != nil {
			t.Fatal(err)
		}
		_, err := eventstore.Open(t.Context(), tx, eventstore.Mapping{})
		if !errors.Is(err, eventstore.ErrMapping) || !strings.HasSuffix(err.Error(), "type: grant select on public.events to "+role) {
			t.Errorf("got %v", err)
		}
	})
}

// Other names, other types, a filter: an event comes out the same.
func TestEventsOfOtherTables(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 30, 15, 123456000, time.UTC)
	db := store(t,
		`create schema axon; create table axon."Entries" ("globalIndex" int, "aggregateIdentifier" varchar(255), seq smallint, "payloadType" varchar, payload bytea, stamp timestamptz)`,
		fmt.Sprintf(`insert into axon."Entries" values (7, 'account-b', 2, 'Opened', '{"a":1}', '%[1]s'), (9, 'account-a', 1, 'Opened', '{"b":1}', '%[1]s'),
			(5, 'account-b', 1, 'Opened', 'x', '%[1]s'), (6, 'account-a', 0, 'Snapshot', 'x', '%[1]s')`, at.Format(time.RFC3339Nano)),
		`create view history as select * from axon."Entries"`)
	m := eventstore.Mapping{Position: "globalIndex", AggregateID: "aggregateIdentifier", Sequence: "seq", Type: "payloadType", Data: "payload", Time: "stamp", Where: `"payloadType" <> 'Snapshot'`}
	for _, m.Relation = range []string{`axon."Entries"`, "history"} {
		r := reader(t, db, m)
		var got []string
		inTx(t, db, func(tx pgx.Tx) {
			for e, err := range r.Events(t.Context(), tx, eventstore.Selection{}) {
				if err != nil {
					t.Fatal(err)
				}
				if !e.Time.Equal(at) {
					t.Errorf("event %d happened at %s", e.Position, e.Time)
				}
				got = append(got, fmt.Sprintf("%s %d %d %s %s", e.AggregateID, e.Sequence, e.Position, e.Type, e.Data))
			}
		})
		want := []string{`account-a 1 9 Opened {"b":1}`, `account-b 1 5 Opened x`, `account-b 2 7 Opened {"a":1}`}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\ngot  %q\nwant %q", m.Relation, got, want)
		}
	}
}

// A selection reads what it says: by range, aggregate, position, type and what the ledger has.
func TestSelection(t *testing.T) {
	t.Parallel()
	db := store(t, table("text"),
		`insert into events (aggregate_id, sequence_number, event_type, data)
		select chr(97 + i / 3), i % 3, case i % 3 when 0 then 'Opened' else 'Moved' end, '{}' from generate_series(0, 8) i`,
		"create table ledger (position bigint)", "insert into ledger values (2), (5)")
	r := reader(t, db, eventstore.Mapping{})
	text := projections.Text
	for _, test := range []struct {
		sel  eventstore.Selection
		want string
	}{
		{eventstore.Selection{}, "[1 2 3 4 5 6 7 8 9]"},
		{eventstore.Selection{Range: eventstore.Range{From: text("b")}}, "[4 5 6 7 8 9]"},
		{eventstore.Selection{Range: eventstore.Range{From: text("b"), To: text("c")}}, "[4 5 6]"},
		{eventstore.Selection{Range: eventstore.Range{To: text("b")}}, "[1 2 3]"},
		{eventstore.Selection{Aggregates: []projections.ID{text("a"), text("c")}, After: 2}, "[3 7 8 9]"},
		{eventstore.Selection{Aggregates: []projections.ID{}}, "[]"},
		{eventstore.Selection{After: 1, Except: "ledger"}, "[3 4 6 7 8 9]"},
		{eventstore.Selection{Types: []string{"Opened"}, AllAbove: 7}, "[1 4 7 8 9]"},
		{eventstore.Selection{Types: []string{}, AllAbove: 8}, "[9]"},
	} {
		inTx(t, db, func(tx pgx.Tx) {
			got := []int64{}
			for e, err := range r.Events(t.Context(), tx, test.sel) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e.Position)
			}
			if fmt.Sprint(got) != test.want {
				t.Errorf("%+v: got %v, want %s", test.sel, got, test.want)
			}
			if n, err := r.Count(t.Context(), tx, test.sel); err != nil || n != int64(len(got)) {
				t.Errorf("%+v: counted %d of %d, %v", test.sel, n, len(got), err)
			}
		})
	}
}

// Whatever the ids look like, ranges are about equal, each id is in exactly one, and most edges fall between partitions.
func TestSplit(t *testing.T) {
	t.Parallel()
	v7 := func(i int) string { // 20,000 consecutive UUIDv7 of one hour share their first digits
		ms := uint64(1_770_000_000_000 + 180*i)
		return fmt.Sprintf("%08x-%04x-7%s", ms>>16, ms&0xffff, uuid.NewString()[15:])
	}
	for name, test := range map[string]struct {
		idType string
		id     func(i int) string
	}{
		"UUIDv4":      {"uuid", func(int) string { return uuid.NewString() }},
		"UUIDv7":      {"uuid", v7},
		"prefixed":    {"text", func(i int) string { return fmt.Sprintf("account-%d", i) }},
		"collated":    {"varchar", func(i int) string { return fmt.Sprintf("Ä-%d/%s", i%7, uuid.NewString()) }},
		"few and big": {"text", func(i int) string { return fmt.Sprint(i % 12) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const events, perRange = 20_000, 1_000
			db := store(t, table(test.idType))
			ids := make([]string, events)
			for i := range ids {
				ids[i] = test.id(i)
			}
			_, err := db.Exec(t.Context(), `
				insert into events (aggregate_id, sequence_number, event_type, data)
				select id::`+test.idType+`, i, 'Opened', '{}' from unnest($1::text[]) with ordinality as u (id, i)`, ids)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(t.Context(), "analyze events"); err != nil {
				t.Fatal(err)
			}
			r := reader(t, db, eventstore.Mapping{})
			parts, err := r.Split(t.Context(), db, perRange)
			if err != nil {
				t.Fatal(err)
			}
			var total, estimated int64
			for i, p := range parts {
				if (i == 0) != p.From.IsZero() || (i == len(parts)-1) != p.To.IsZero() || i > 0 && parts[i-1].To != p.From {
					t.Errorf("range %d of %d: %+v", i, len(parts), p)
				}
				inTx(t, db, func(tx pgx.Tx) {
					n, err := r.Count(t.Context(), tx, eventstore.Selection{Range: p.Range})
					if err != nil {
						t.Fatal(err)
					}
					total += n
					if n > 2*perRange {
						t.Errorf("range %s holds %d events, about %d were asked for", p.Label(), n, perRange)
					}
				})
				estimated += p.Events
			}
			if total != events || estimated < events/2 || estimated > 2*events {
				t.Errorf("the ranges hold %d of %d events, estimated %d", total, events, estimated)
			}
			if len(parts) < 10 && name != "few and big" {
				t.Errorf("only %d ranges", len(parts))
			}
		})
	}
}

func TestLabel(t *testing.T) {
	t.Parallel()
	id := func(s string) projections.ID { return projections.UUID(uuid.MustParse(s)) }
	for _, test := range []struct {
		r    eventstore.Range
		want string
	}{
		{eventstore.Range{}, "all"},
		{eventstore.Range{From: id("3f000000-0000-0000-0000-000000000000"), To: id("40f00000-0000-0000-0000-000000000000")}, "3f0..40f"},
		{eventstore.Range{To: id("019c1234-5678-7000-8000-000000000000")}, "..019c1234"},
		{eventstore.Range{From: projections.Text("account-7")}, "account-7.."},
	} {
		if got := test.r.Label(); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

// Settle waits for whoever may still bring an event at or below the cut, and for nobody else.
func TestSettle(t *testing.T) {
	t.Parallel()
	const insert = "insert into events (aggregate_id, sequence_number, event_type, data) values (gen_random_uuid(), 1, 'Opened', '{}')"
	for name, test := range map[string]struct {
		before, writer string
		waits          bool
	}{
		"nobody":                     {writer: "select count(*) from events", waits: false},
		"insert":                     {writer: insert, waits: true},
		"number drawn, nothing more": {writer: "select nextval(pg_get_serial_sequence('events', 'position'))", waits: true},
		"in a savepoint rolled back": {writer: "savepoint a; select nextval(pg_get_serial_sequence('events', 'position')); rollback to a", waits: true},
		"vacuum-like lock":           {writer: "lock table events in share update exclusive mode", waits: false},
		"another table":              {before: "create table other (a int)", writer: "insert into other values (1)", waits: false},
		"functions of strangers":     {before: "create function public.unnest(oid[]) returns setof oid language sql as 'select 1::oid where false'", writer: insert, waits: true},
		"through a view":             {before: "alter table events rename to real; create view events as select * from real", writer: "insert into real (aggregate_id, sequence_number, event_type, data) values (gen_random_uuid(), 1, 'Opened', '{}')", waits: true},
		"prepared transaction":       {writer: insert + "; prepare transaction 'late'", waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := store(t, table("uuid"), insert, test.before)
			ctx := t.Context()
			conn, err := db.Acquire(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			if _, err := conn.Exec(ctx, "begin; "+test.writer); err != nil {
				t.Fatal(err)
			}
			r := reader(t, db, eventstore.Mapping{})
			cut, err := r.Settle(ctx, db, eventstore.Wait{Limit: 300 * time.Millisecond})
			if waited := errors.Is(err, eventstore.ErrUnsettled); waited != test.waits || err != nil && !waited {
				t.Errorf("waited: %t, %v", waited, err)
			}
			if !test.waits && cut.Position != 1 {
				t.Errorf("cut %+v", cut)
			}
			end := "rollback"
			if strings.Contains(test.writer, "prepare") {
				end = "rollback prepared 'late'"
			}
			if _, err := conn.Exec(ctx, end); err != nil {
				t.Fatal(err)
			}
			if cut, err = r.Settle(ctx, db, eventstore.Wait{}); err != nil || cut.Position != 1 {
				t.Errorf("after the writer has ended: %+v, %v", cut, err)
			}
		})
	}
}

// Where numbers can be drawn outside of the inserting transaction, no cut is known, and the reason is said.
func TestDistrust(t *testing.T) {
	t.Parallel()
	const columns = "aggregate_id uuid, sequence_number int, event_type text, data jsonb"
	for name, test := range map[string]struct{ sql, reason string }{
		"identity":          {"create table events (position bigint generated always as identity, " + columns + ")", ""},
		"drawn ahead":       {"create table events (position bigserial, " + columns + ")", "drawn ahead"},
		"serial":            {"create table events (position bigserial, " + columns + ")", ""},
		"shared sequence":   {"create sequence s; create table events (position bigint default nextval('s'), " + columns + ")", ""},
		"no default":        {"create table events (position bigint, " + columns + ")", "no sequence"},
		"function":          {"create function f() returns bigint language sql as 'select 1::bigint'; create table events (position bigint default f(), " + columns + ")", "no sequence"},
		"cache":             {"create sequence s cache 10; create table events (position bigint default nextval('s'), " + columns + ")", "cache 10"},
		"increment":         {"create sequence s increment 2; create table events (position bigint default nextval('s'), " + columns + ")", "increment 2"},
		"explicit position": {"create table events (position bigserial, " + columns + "); insert into events values (100)", "reached 100"},
		"view":              {"create table real (\"No\" bigserial, " + columns + "); create view events as select \"No\" as position, aggregate_id, sequence_number, event_type, data from real where data is not null", ""},
		"view of a view":    {"create table real (position bigserial, " + columns + "); create view v as select * from real; create view events as select * from v", ""},
		"computed position": {"create table real (position bigserial, " + columns + "); create view events as select position * 2 as position, aggregate_id, sequence_number, event_type, data from real", "is not a column"},
		"numbered rows":     {"create table real (position bigserial, " + columns + "); create view events as select row_number() over () as position, aggregate_id, sequence_number, event_type, data from real", "is not a column"},
		"view of a join":    {"create table real (position bigserial, " + columns + "); create table types (t text); create view events as select real.* from real join types on t = event_type", "a view of 2 tables"},
		"partitioned":       {"create sequence s; create table events (position bigint default nextval('s'), " + columns + ") partition by hash (aggregate_id); create table events_0 partition of events for values with (modulus 1, remainder 0)", ""},
		"partitions of an identity": {
			"create table events (position bigint generated always as identity, " + columns + ") partition by hash (aggregate_id); create table events_0 partition of events for values with (modulus 1, remainder 0)", "",
		},
		"a partition with a sequence of its own": {
			"create sequence s; create table events (position bigint default nextval('s'), " + columns + ") partition by list (event_type); create table late (position bigserial, " + columns + "); alter table events attach partition late default",
			"late has a default of its own for the position, which does not draw from s",
		},
		"an heir with an identity": {
			"create sequence s; create table events (position bigint default nextval('s'), " + columns + "); create table late (position bigint generated always as identity, " + columns + "); alter table late inherit events",
			"late has a default of its own",
		},
		"an heir": {"create sequence s; create table events (position bigint default nextval('s'), " + columns + "); create table late () inherits (events)", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := store(t, test.sql)
			m := eventstore.Mapping{}
			if name == "drawn ahead" {
				m.Positions = eventstore.PositionsDrawnAhead
			}
			cut, err := reader(t, db, m).Settle(t.Context(), db, eventstore.Wait{})
			if err != nil {
				t.Fatal(err)
			}
			if (cut.Reason == "") != (test.reason == "") || !strings.Contains(cut.Reason, test.reason) {
				t.Errorf("reason %q, want %q", cut.Reason, test.reason)
			}
		})
	}
}

// Positions start above 0: the ledger takes a cut of 0 for none.
func TestPositionZero(t *testing.T) {
	t.Parallel()
	db := store(t, strings.Replace(table("uuid"), "identity", "identity (minvalue 0 start 0)", 1),
		"insert into events (aggregate_id, sequence_number, event_type, data) values (gen_random_uuid(), 1, 'Opened', '{}')")
	if _, err := reader(t, db, eventstore.Mapping{}).Settle(t.Context(), db, eventstore.Wait{}); !errors.Is(err, eventstore.ErrMapping) {
		t.Errorf("got %v", err)
	}
}

// What a lock of the relation does not reach is said: an event could come in the middle of a cutover.
func TestMayHoldWriters(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ sql, want string }{
		"table":            {table("uuid"), ""},
		"view":             {strings.Replace(table("uuid"), "table events", "table stored", 1) + "; create view events as select * from stored", ""},
		"view of function": {strings.Replace(table("uuid"), "table events", "table stored", 1) + "; create function f() returns setof stored language sql as 'select * from stored'; create view events as select * from f()", "something else than tables"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := store(t, test.sql)
			whyNot, err := reader(t, db, eventstore.Mapping{}).MayHoldWriters(t.Context(), db)
			if err != nil || (whyNot == "") != (test.want == "") || !strings.Contains(whyNot, test.want) {
				t.Errorf("%q, %v", whyNot, err)
			}
		})
	}
}

// A time without a zone is in UTC, whatever the session's zone.
func TestTimeWithoutZone(t *testing.T) {
	t.Parallel()
	db := store(t, strings.Replace(table("uuid"), "timestamptz", "timestamp", 1),
		"insert into events (aggregate_id, sequence_number, event_type, data, created_at) values (gen_random_uuid(), 1, 'Opened', '{}', '2026-03-01 12:00')")
	r := reader(t, db, eventstore.Mapping{})
	for _, zone := range []string{"UTC", "Asia/Tokyo"} {
		inTx(t, db, func(tx pgx.Tx) {
			if _, err := tx.Exec(t.Context(), "select set_config('TimeZone', $1, true)", zone); err != nil {
				t.Fatal(err)
			}
			for e, err := range r.Events(t.Context(), tx, eventstore.Selection{}) {
				if err != nil {
					t.Fatal(err)
				}
				if want := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC); !e.Time.Equal(want) {
					t.Errorf("%s: %s", zone, e.Time)
				}
			}
		})
	}
}
