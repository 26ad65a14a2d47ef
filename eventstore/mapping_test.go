package eventstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// joined is a store whose events are in pieces.
const joined = `
	create table kinds (id int primary key, name varchar not null, class text);
	create table log (no bigserial primary key, stream text not null, place smallint not null, kind int not null references kinds, stamp text, body oid, headers jsonb, tenant int);
	insert into kinds values (1, 'Opened', 'Account'), (2, 'Moved', 'Account'), (3, 'Snapshot', null);
	insert into log (stream, place, kind, stamp, body, headers, tenant) values
		('account-c7a1ad5e-0000-4000-8000-000000000002', 1, 1, '2026-03-01T10:00:00.123Z', lo_from_bytea(0, '{"n": 1}'), '{"by": "a"}', 7),
		('account-c7a1ad5e-0000-4000-8000-000000000001', 1, 1, '2026-03-01T12:00:00.123+02:00', lo_from_bytea(0, '{"n": 2}'), '{"by": "b"}', 7),
		('account-c7a1ad5e-0000-4000-8000-000000000001', 2, 3, '2026-03-01 10:00:00.123', lo_from_bytea(0, 'x'), null, 7),
		('account-c7a1ad5e-0000-4000-8000-000000000001', 3, 2, '2026-03-01 10:00:00.123', lo_from_bytea(0, '{"n": 3}'), null, null)`

var joinedMapping = eventstore.Mapping{
	Relation: "log", Join: "left join kinds k on k.id = e.kind",
	Position: "no", AggregateID: "(substr(e.stream, 9)::uuid)", Sequence: "place", Type: "(k.name)", Data: "body", Time: "stamp",
	Where: "k.name <> 'Snapshot'", AggregateType: "(k.class)", Metadata: "headers", SchemaVersion: "(1.5)", Tenant: "tenant",
}

// Events come out of a join, of expressions and of large objects as they do out of a plain table, and settle like them.
func TestExpressions(t *testing.T) {
	t.Parallel()
	db := store(t, joined)
	r := reader(t, db, joinedMapping)
	at := time.Date(2026, 3, 1, 10, 0, 0, 123_000_000, time.UTC)
	for _, zone := range []string{"UTC", "Asia/Tokyo"} {
		inTx(t, db, func(tx pgx.Tx) {
			if _, err := tx.Exec(t.Context(), "select set_config('TimeZone', $1, true)", zone); err != nil {
				t.Fatal(err)
			}
			var got []string
			for e, err := range r.Events(t.Context(), tx, eventstore.Selection{}) {
				if err != nil {
					t.Fatal(err)
				}
				if !e.Time.Equal(at) {
					t.Errorf("%s: event %d happened at %s", zone, e.Position, e.Time)
				}
				got = append(got, fmt.Sprintf("%s %d %d %s %s %s %s %s %s", e.AggregateID.String()[35:], e.Sequence, e.Position, e.Type, e.Data,
					e.AggregateType, e.Metadata, e.SchemaVersion, e.Tenant))
			}
			want := []string{`1 1 2 Opened {"n": 2} Account {"by": "b"} 1.5 7`, `1 3 4 Moved {"n": 3} Account  1.5 `, `2 1 1 Opened {"n": 1} Account {"by": "a"} 1.5 7`}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
	if cut, err := r.Settle(t.Context(), db, eventstore.Wait{}); err != nil || cut.Position != 4 {
		t.Errorf("cut %+v, %v", cut, err)
	}
	types, exact, err := r.Types(t.Context(), db, false)
	if err != nil || fmt.Sprint(types) != "[{Moved 1} {Opened 2}]" || !exact {
		t.Errorf("types %v, exactly: %v, %v", types, exact, err)
	}
	inTx(t, db, func(tx pgx.Tx) {
		one, err := r.ParseID("c7a1ad5e-0000-4000-8000-000000000001")
		if err != nil {
			t.Fatal(err)
		}
		for want, sel := range map[int64]eventstore.Selection{
			0: {Range: eventstore.Range{To: one}},
			1: {Aggregates: []projections.ID{one}, After: 2},
			2: {Range: eventstore.Range{From: one}, Types: []string{"Moved"}, AllAbove: 1},
			3: {},
		} {
			if n, err := r.Count(t.Context(), tx, sel); err != nil || n != want {
				t.Errorf("%+v: %d, %v", sel, n, err)
			}
		}
	})
}

// A large store of expressions and a join is cut into ranges, too.
func TestSplitOfExpressions(t *testing.T) {
	t.Parallel()
	db := store(t, joined, `
		insert into log (stream, place, kind, body)
		select 'account-' || md5((i / 3)::text)::uuid, i % 3, 2, 0 from generate_series(1, 150000) i`, "analyze")
	r := reader(t, db, joinedMapping)
	parts, err := r.Split(t.Context(), db, 10_000)
	if err != nil || len(parts) < 10 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	var sum int64
	for _, p := range parts {
		n, err := r.Count(t.Context(), db, eventstore.Selection{Range: p.Range})
		if err != nil || n > 20_000 {
			t.Errorf("%s: %d events, %v", p.Label(), n, err)
		}
		sum += n
	}
	if sum != 150_003 {
		t.Errorf("%d events", sum)
	}
	if l, err := r.Layout(t.Context(), db); err != nil || l.Indexed || l.Bytes == 0 {
		t.Errorf("%+v, %v", l, err)
	}
}

// What PostgreSQL does not understand of a mapping is said by field, all at once.
func TestExpressionErrors(t *testing.T) {
	t.Parallel()
	db := store(t, joined)
	for name, test := range map[string]struct {
		change func(m *eventstore.Mapping)
		want   []string
	}{
		"join": {func(m *eventstore.Mapping) { m.Join = "join nowhere n on true" }, []string{`Join does not work: relation "nowhere" does not exist`}},
		"several": {func(m *eventstore.Mapping) {
			m.Where, m.Type, m.AggregateID, m.Data, m.Tenant = "e.nothing", "(k.nothing)", "(e.place)", "(k.id", "nothing"
		}, []string{
			"Where does not work: column e.nothing does not exist",
			"the expression for the event type, (k.nothing), does not work: column k.nothing does not exist",
			"the expression (e.place) is int2; the aggregate id must be uuid, text, varchar",
			"the expression for the payload, (k.id, does not work: syntax error", `no column "nothing" for the tenant`,
		}},
		"where that is no condition": {func(m *eventstore.Mapping) { m.Where = "e.place" }, []string{"Where does not work: argument of WHERE must be type boolean"}},
		"positions":                  {func(m *eventstore.Mapping) { m.Positions = "commit-order" }, []string{`Positions is "commit-order"`, `"commit order"`}},
	} {
		m := joinedMapping
		test.change(&m)
		_, err := eventstore.Open(t.Context(), db, m)
		if !errors.Is(err, eventstore.ErrMapping) {
			t.Fatalf("%s: %v", name, err)
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s:\n%v\nlacks %s", name, err, want)
			}
		}
	}
}

// A position that is an expression is read, and no cut is settled.
func TestPositionIsAnExpression(t *testing.T) {
	t.Parallel()
	m := joinedMapping
	m.Position = "(e.no + 10)"
	db := store(t, joined)
	cut, err := reader(t, db, m).Settle(t.Context(), db, eventstore.Wait{})
	if err != nil || cut.Position != 0 || !strings.Contains(cut.Reason, "the position is an expression, (e.no + 10)") {
		t.Errorf("%+v, %v", cut, err)
	}
}

// What an expression has in it is PostgreSQL's alone to read, percent signs, too.
func TestExpressionsWithPercentSigns(t *testing.T) {
	t.Parallel()
	db := store(t, joined)
	m := joinedMapping
	m.AggregateID = "(case when e.stream like 'account-%d%' then substr(e.stream, 9)::uuid end)"
	m.Type = "(case when k.name like 'Open%' then 'Opened' else k.name end)"
	r := reader(t, db, m)
	id := projections.UUID([16]byte{0xc7, 0xa1, 0xad, 0x5e, 6: 0x40, 8: 0x80, 15: 2})
	for name, sel := range map[string]eventstore.Selection{
		"of a range":      {Range: eventstore.Range{From: id}, Types: []string{"Opened"}, AllAbove: 100},
		"of an aggregate": {Aggregates: []projections.ID{id}, After: 0, UpTo: 100},
		"not known":       {Known: eventstore.Known{Positions: []int64{2, 4}}},
	} {
		n, err := r.Count(t.Context(), db, sel)
		if err != nil || n != 1 {
			t.Errorf("%s: %d events, %v", name, n, err)
		}
	}
}
