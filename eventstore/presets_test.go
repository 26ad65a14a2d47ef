package eventstore_test

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// layouts are the tables of event stores as they are, in three parts: the tables; what puts the events of bank.batch into them;
// and odd rows that are no events.
//
//go:embed testdata/presets/*.sql
var layouts embed.FS

// The bank has so many events. The last are late: they come while the view tables are built.
const (
	bankEvents = 3000
	lateEvents = 20
)

// position is that of the nth event of the bank. There is room for odd rows before and between them.
func position(n int) int { return 99 + 2*n }

// bankStore is a database whose events are the bank's, in a schema of their own.
func bankStore(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf("%s; alter table events alter position set increment 2 restart with %d", bank.EventTable, position(1))); err != nil {
		return err
	}
	if err := bank.Fill(ctx, conn, bankEvents, 1); err != nil {
		return err
	}
	// The loop uses up transaction ids, as Sequent's events are to have some that were given out.
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		create schema bank;
		alter table events alter position drop identity;
		alter table events set schema bank;
		create table bank.bounds (lowest bigint, highest bigint);
		create view bank.batch as select e.* from bank.events e join bank.bounds b on e.position between b.lowest and b.highest;
		create temporary table burnt (i int);
		do $$ begin
			for i in 1 .. %d loop
				begin insert into burnt values (i); exception when others then null; end;
			end loop;
		end $$`, position(bankEvents)))
	return err
}

// layout is a database with an event store of a layout.
type layout struct {
	t    *testing.T
	db   *pgxpool.Pool
	fill string
	late int // events that were added since
}

func newLayout(t *testing.T, name string, replace ...string) *layout {
	t.Helper()
	text, err := layouts.ReadFile("testdata/presets/" + name + ".sql")
	if err != nil {
		t.Fatal(err)
	}
	sql := strings.NewReplacer(replace...).Replace(string(text))
	tables, rest, _ := strings.Cut(sql, "\n-- fill\n")
	fill, odd, found := strings.Cut(rest, "\n-- odd")
	if !found {
		t.Fatalf("%s has not all parts", name)
	}
	l := &layout{t: t, db: pgtest.Database(t, bankStore), fill: fill}
	l.exec(tables)
	l.add(1, bankEvents-lateEvents)
	l.exec("--" + odd)
	return l
}

// exec runs statements in one transaction.
func (l *layout) exec(sql string) {
	l.t.Helper()
	err := pgx.BeginFunc(l.t.Context(), l.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(l.t.Context(), sql)
		return err
	})
	if err != nil {
		l.t.Fatalf("%v\n%s", err, sql)
	}
}

// add puts events of the bank into the store, from the first to the last.
func (l *layout) add(first, last int) {
	l.t.Helper()
	l.exec(fmt.Sprintf("truncate bank.bounds; insert into bank.bounds values (%d, %d);", position(first), position(last)))
	l.exec(l.fill)
}

// addLate puts the next events into the store, one by one.
func (l *layout) addLate(n int) {
	l.t.Helper()
	for range n {
		l.late++
		l.add(bankEvents-lateEvents+l.late, bankEvents-lateEvents+l.late)
	}
}

// known are the layouts, each with what its preset reads from it.
var known = map[string]struct {
	layout  string
	replace []string
	preset  string
	// What the default mapping makes of the bank's: text before ids and types, sequence numbers that begin elsewhere, and more.
	idPrefix, typePrefix string
	first                int64 // sequence number; -1: they are just in order
	aggregateType        string
	metadata, version    string
	tenant               string
	reason               string // why no cut is settled
	// over is what the bank sets so that its projectors find their uuids and sequence numbers from 1.
	over eventstore.Mapping
}{
	"sequent": {layout: "sequent", preset: "sequent", first: 1, aggregateType: "Account"},
	"sequent 5": {
		layout: "sequent", preset: "sequent", first: 1, aggregateType: "Account",
		replace: []string{"aggregate_id      uuid not null", "aggregate_id      varchar not null", "s.aggregate_id = b.aggregate_id", "s.aggregate_id::text = b.aggregate_id::text"},
		over:    eventstore.Mapping{AggregateID: "(e.aggregate_id::uuid)"},
	},
	"sequent8": {layout: "sequent8", preset: "sequent8", first: 1, aggregateType: "Account"},
	"axon of JPA": {
		layout: "axon_jpa", preset: "axon", aggregateType: "Account", metadata: `{"traceId": "t"}`, version: "1.0", reason: "has no sequence",
		over: eventstore.Mapping{AggregateID: "(e.aggregate_identifier::uuid)", Sequence: "(e.sequence_number + 1)"},
	},
	"axon of JDBC": {
		layout: "axon_jdbc", preset: "axon", aggregateType: "Account", metadata: "{}",
		over: eventstore.Mapping{AggregateID: "(e.aggregateidentifier::uuid)", Sequence: "(e.sequencenumber + 1)", Where: "e.type = 'Account'"},
	},
	"svrnty": {
		layout: "svrnty", preset: "svrnty", idPrefix: "account-", first: -1, metadata: "{}", version: "1",
		over: eventstore.Mapping{
			AggregateID: "(substr(e.stream_name, 9)::uuid)",
			Sequence:    `((select count(*) from event_streaming.events f where f.stream_name = e.stream_name and f."offset" <= e."offset"))`,
		},
	},
	"marten": {
		layout: "marten", preset: "marten", first: 1, aggregateType: "account", metadata: `{"by": "x"}`, tenant: "*DEFAULT*", reason: "drawn ahead",
	},
	"marten of text": {
		layout: "marten", preset: "marten", first: 1, aggregateType: "account", metadata: `{"by": "x"}`, tenant: "*DEFAULT*", reason: "drawn ahead",
		replace: []string{
			"id uuid not null, type", "id varchar not null, type", "stream_id uuid", "stream_id varchar", "'::uuid, 1::bigint", "', 1::bigint",
			"headers jsonb null", "headers jsonb null, bdata bytea null",
		},
		over: eventstore.Mapping{AggregateID: "(e.stream_id::uuid)"},
	},
	"messagedb": {
		layout: "messagedb", preset: "messagedb", idPrefix: "account-", aggregateType: "account", metadata: `{"correlationStreamName": "x"}`,
		over: eventstore.Mapping{
			AggregateID: "(substr(e.stream_name, strpos(e.stream_name, '-') + 1)::uuid)", Sequence: "(e.position + 1)", Where: "e.stream_name like 'account-%'",
		},
	},
	"emmett": {
		layout: "emmett", preset: "emmett", idPrefix: "account-", first: 1, aggregateType: "account", metadata: `{"correlationId": "c"}`, version: "1",
		over: eventstore.Mapping{AggregateID: "(substr(e.stream_id, 9)::uuid)"},
	},
	"eventstore": {
		layout: "eventstore", preset: "eventstore", first: 1, metadata: "{}",
		over: eventstore.Mapping{AggregateID: "(s.stream_uuid::uuid)"},
	},
	"eventstore of jsonb": {
		layout: "eventstore", preset: "eventstore", first: 1, metadata: "{}",
		replace: []string{"data bytea", "data jsonb", "metadata bytea", "metadata jsonb", "convert_to(data::text, 'UTF8')", "data", "convert_to('{}', 'UTF8')", "'{}'"},
		over:    eventstore.Mapping{AggregateID: "(s.stream_uuid::uuid)"},
	},
	"rails_event_store": {
		layout: "rails_event_store", preset: "rails_event_store", idPrefix: "Account$", first: -1, aggregateType: "Account", metadata: `{"correlation_id": "c"}`,
		over: eventstore.Mapping{
			AggregateID: "(split_part(e.stream, '$', 2)::uuid)",
			Sequence:    "((select count(*) from event_store_events_in_streams f where f.stream = e.stream and f.id <= e.id))",
		},
	},
	"rails_event_store of json": {
		layout: "rails_event_store", preset: "rails_event_store", idPrefix: "Account$", first: -1, aggregateType: "Account", metadata: `{"correlation_id": "c"}`,
		replace: []string{
			"jsonb,", "json,", "jsonb not", "json not", "event_id uuid", "event_id varchar(36)", "::uuid", "::uuid::text",
			"to_jsonb(data::text) else data end", "to_json(data::text) else data::json end",
		},
		over: eventstore.Mapping{
			AggregateID: "(split_part(e.stream, '$', 2)::uuid)",
			Sequence:    "((select count(*) from event_store_events_in_streams f where f.stream = e.stream and f.id <= e.id))",
		},
	},
	"eventsourcing": {layout: "eventsourcing", preset: "eventsourcing", typePrefix: "bank.model:Account.", first: 1, aggregateType: "Account"},
}

// Each preset has a layout here.
func TestPresetNames(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{}
	for _, k := range known {
		tested[k.preset] = true
	}
	for _, name := range eventstore.Presets() {
		if !tested[name] {
			t.Errorf("preset %s has no layout", name)
		}
	}
	if !slices.IsSorted(eventstore.Presets()) || len(eventstore.Presets()) != len(tested) {
		t.Errorf("the presets are %v", eventstore.Presets())
	}
	_, err := eventstore.Open(t.Context(), pgtest.Database(t, nil), eventstore.Mapping{Preset: "Sequent-8"})
	if !errors.Is(err, eventstore.ErrMapping) || !strings.Contains(err.Error(), "did you mean sequent8?") {
		t.Errorf("got %v", err)
	}
}

// With nothing but its name, a preset reads the events of its layout, all that they have, and none of the odd rows.
func TestPresetsRead(t *testing.T) {
	t.Parallel()
	for name, k := range known {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLayout(t, k.layout, k.replace...)
			r := reader(t, l.db, eventstore.Mapping{Preset: k.preset})
			want := stored(t, l.db)
			read := 0
			var before *eventstore.Event
			inTx(t, l.db, func(tx pgx.Tx) {
				for e, err := range r.Events(t.Context(), tx, eventstore.Selection{}) {
					if err != nil {
						t.Fatal(err)
					}
					read++
					id, _ := strings.CutPrefix(e.AggregateID.String(), k.idPrefix)
					if len(want[id]) == 0 {
						t.Fatalf("%+v is not an event of the bank", e)
					}
					w := want[id][0]
					want[id] = want[id][1:]
					switch {
					case string(e.Type) != k.typePrefix+w.Type, !e.Time.Equal(w.At), !contains(e.Data, w.Data):
						t.Fatalf("got %s %s %s, want %+v", e.Type, e.Time, e.Data, w)
					case k.first >= 0 && e.Sequence != w.Sequence-1+k.first, before != nil && before.AggregateID == e.AggregateID && before.Sequence >= e.Sequence:
						t.Fatalf("event %+v has the sequence number %d", w, e.Sequence)
					case e.Position != w.Position && k.preset != "sequent8":
						t.Fatalf("event %+v has the position %d", w, e.Position)
					case e.AggregateType != k.aggregateType, string(e.Metadata) != k.metadata, e.SchemaVersion != k.version && e.SchemaVersion != "", e.Tenant != k.tenant:
						t.Fatalf("event %+v has the type %q, metadata %q, version %q, tenant %q", w, e.AggregateType, e.Metadata, e.SchemaVersion, e.Tenant)
					}
					copied := *e
					before = &copied
				}
			})
			if read != bankEvents-lateEvents {
				t.Errorf("%d of %d events", read, bankEvents-lateEvents)
			}
			if n, err := r.Count(t.Context(), l.db, eventstore.Selection{}); err != nil || n != int64(read) {
				t.Errorf("counted %d, %v", n, err)
			}
			cut, err := r.Settle(t.Context(), l.db, eventstore.Wait{})
			if err != nil || (cut.Reason == "") != (k.reason == "") || !strings.Contains(cut.Reason, k.reason) {
				t.Errorf("%+v, %v", cut, err)
			}
			if last := int64(position(bankEvents - lateEvents)); (cut.Position < last || cut.Position > last+1) && k.reason == "" && !r.SharedPositions() {
				t.Errorf("%+v", cut)
			}
			if whyNot, err := r.MayHoldWriters(t.Context(), l.db); err != nil || whyNot != "" {
				t.Errorf("%q, %v", whyNot, err)
			}
		})
	}
}

// bankEvent is an event as the bank has it.
type bankEvent struct {
	Position, Sequence int64
	ID, Type           string
	Data               map[string]any
	At                 time.Time
}

// stored reads the bank's events by aggregate.
func stored(t *testing.T, db *pgxpool.Pool) map[string][]bankEvent {
	t.Helper()
	rows, _ := db.Query(t.Context(), "select position, sequence_number, aggregate_id::text, event_type, data, created_at from bank.events order by sequence_number")
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[bankEvent])
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string][]bankEvent{}
	for _, e := range list {
		byID[e.ID] = append(byID[e.ID], e)
	}
	return byID
}

// contains says whether JSON has all the members.
func contains(data []byte, members map[string]any) bool {
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		return false
	}
	for name, value := range members {
		if !reflect.DeepEqual(got[name], value) {
			return false
		}
	}
	return true
}

// The bank is rebuilt from each layout, with events that come while it is, and has the rows that it has by hand.
func TestPresetsRebuild(t *testing.T) {
	t.Parallel()
	for name, k := range known {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLayout(t, k.layout, k.replace...)
			d := bank.WithoutTransfers() // some of the stores have no order
			d.Source, d.Events = k.over, eventTypes(k.typePrefix)
			d.Source.Preset = k.preset
			s, err := viewschema.Open(l.db, d, viewschema.Options{})
			if err != nil {
				t.Fatal(err)
			}
			online, err := s.MigrateOnline(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if online.Events != bankEvents-lateEvents || !strings.Contains(online.CutReason, k.reason) || (online.CutReason == "") != (k.reason == "") {
				t.Errorf("%+v", online)
			}
			const caughtUp = 15
			l.addLate(caughtUp)
			if r, err := s.CatchUp(t.Context()); err != nil || r.Events != caughtUp {
				t.Fatalf("%+v, %v", r, err)
			}
			l.addLate(lateEvents - caughtUp)
			if r, err := s.MigrateOffline(t.Context()); err != nil || r.Events != lateEvents-caughtUp {
				t.Fatalf("%+v, %v", r, err)
			}
			verify(t, l.db, d.Versions.Target())
		})
	}
}

// eventTypes are the bank's, with names that begin otherwise.
func eventTypes(prefix string) []projections.EventType {
	return []projections.EventType{
		projections.JSON[bank.Opened](prefix + "AccountOpened"), projections.JSON[bank.Renamed](prefix + "AccountRenamed"),
		projections.JSON[bank.Deposited](prefix + "MoneyDeposited"), projections.JSON[bank.Withdrawn](prefix + "MoneyWithdrawn"),
		projections.JSON[bank.TransferSent](prefix + "TransferSent"), projections.JSON[bank.TransferReceived](prefix + "TransferReceived"),
		projections.JSON[bank.Closed](prefix + "AccountClosed"),
	}
}

// verify holds the view tables against a replay by hand of the bank's own events.
func verify(t *testing.T, db *pgxpool.Pool, version int) {
	t.Helper()
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), "set search_path = bank"); err != nil {
		t.Fatal(err)
	}
	tables, err := bank.Verify(t.Context(), conn.Conn(), version)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range tables {
		if c.Rows == 0 || !c.Same() {
			t.Error(c)
		}
	}
}
