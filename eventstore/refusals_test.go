package eventstore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
)

// Where a preset does not fit, it says so before anything is read, and what it says to do works.
func TestPresetsRefuse(t *testing.T) {
	t.Parallel()
	const axon2 = `create table domainevententry (aggregateidentifier varchar(255) not null, sequencenumber bigint not null, type varchar(255) not null, eventidentifier varchar(255) not null,
		metadata bytea, payload bytea not null, payloadrevision varchar(255), payloadtype varchar(255) not null, timestamp varchar(255) not null, primary key (aggregateidentifier, sequencenumber, type))`
	for name, test := range map[string]struct {
		layout  string // empty: none
		replace []string
		sql     string // then
		preset  string
		want    []string
		remedy  string // in SQL
		over    eventstore.Mapping
	}{
		"Axon 2": {
			sql: axon2, preset: "axon", want: []string{"no global index", "type: projector events prepare", "aggregates of several types may have one identifier"},
			remedy: "alter table domainevententry add column globalindex bigserial", over: eventstore.Mapping{AggregateID: "(e.type || '/' || e.aggregateidentifier)"},
		},
		"identifiers that types share": {
			layout: "axon_jpa", replace: []string{"unique (aggregate_identifier, sequence_number)", "unique (aggregate_identifier, sequence_number, type)"}, preset: "axon",
			want: []string{"aggregate_identifier and sequence_number", "e.\"type\" = '…'"}, over: eventstore.Mapping{Where: "e.type = 'Account'"},
		},
		"Sequent 8 for 7":                  {layout: "sequent8", preset: "sequent", want: []string{"Sequent 8 and later have preset sequent8", `"sequent_schema"."event_records" has other columns`}},
		"transactions that are not stored": {layout: "sequent8", preset: "sequent8", sql: "alter table sequent_schema.events alter xact_id drop default", want: []string{"set default pg_current_xact_id()"}, remedy: "from the message"},
		"streams that are numbered by themselves": {
			layout: "svrnty", replace: []string{`"offset" bigserial primary key`, `"offset" bigserial, unique (stream_name, "offset")`}, preset: "svrnty",
			want: []string{"numbers the events of a stream"}, remedy: "from the message",
		},
		"tenants": {
			layout: "marten", sql: "alter table mt_events drop constraint fkey_mt_events_stream_id; alter table mt_streams drop constraint pkey_mt_streams_id, add primary key (tenant_id, id)",
			preset: "marten", want: []string{"several tenants", "(e.tenant_id || '/' || e.stream_id)"}, over: eventstore.Mapping{AggregateID: "(e.tenant_id || '/' || e.stream_id)"},
		},
		"tenants with their own sequences": {
			layout: "marten", preset: "marten", sql: "alter table mt_events drop constraint pkey_mt_events_seq_id, add unique (seq_id, tenant_id)",
			want: []string{"seq_id is not unique", "e.is_archived is not true"}, over: eventstore.Mapping{Where: "e.tenant_id = '*DEFAULT*'"},
		},
		"Erlang terms": {
			layout: "eventstore", preset: "eventstore", sql: `alter table events disable trigger all; update events set data = '\x8374000000'`,
			want: []string{"Erlang's external term format", `Data: "(d.data)"`}, over: eventstore.Mapping{Data: "(d.data)"},
		},
		"YAML": {
			layout: "rails_event_store", replace: []string{"data jsonb", "data bytea", "metadata jsonb", "metadata bytea", "case when position % 5 = 0 then to_jsonb(data::text) else data end", "convert_to(E'---\\n:a: 1\\n', 'UTF8')"},
			preset: "rails_event_store", want: []string{"YAML", "RubyEventStore::JSONClient"}, over: eventstore.Mapping{Data: "(d.data)"},
		},
		"XML":        {layout: "axon_jdbc", preset: "axon", sql: "update domainevententry set payload = '<Opened/>'", want: []string{"are XML", `Data: "payload"`}, over: eventstore.Mapping{Data: "payload"}},
		"compressed": {layout: "eventsourcing", preset: "eventsourcing", sql: `update bankaccounts_events set state = '\x789c03'`, want: []string{"compressed (zlib)"}, over: eventstore.Mapping{Data: "state"}},
		"encrypted":  {layout: "eventsourcing", preset: "eventsourcing", sql: `update bankaccounts_events set state = '\xfe9c03'`, want: []string{"not JSON; they may be compressed or encrypted"}},
		"two applications": {
			layout: "eventsourcing", preset: "eventsourcing", sql: "create schema other; create table other.shop_events (like bankaccounts_events including all); set search_path = ''",
			want: []string{`fits "other"."shop_events", "public"."bankaccounts_events"; name one of them in Relation`}, over: eventstore.Mapping{Relation: "other.shop_events"},
		},
		"no table": {preset: "messagedb", want: []string{"looks for a table messages with the columns global_position, stream_name"}},
		"a table with other columns": {
			preset: "emmett", sql: "create table emt_messages (a int)", want: []string{`"public"."emt_messages" has other columns`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := store(t)
			if test.layout != "" {
				db = newLayout(t, test.layout, test.replace...).db
			}
			conn, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			exec := func(sql string) {
				t.Helper()
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			exec(test.sql)
			_, err = eventstore.Open(t.Context(), conn, eventstore.Mapping{Preset: test.preset})
			if !errors.Is(err, eventstore.ErrMapping) {
				t.Fatalf("got %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %s", err, want)
				}
			}
			if test.remedy == "" && test.over == (eventstore.Mapping{}) {
				return
			}
			if test.remedy == "from the message" {
				_, remedy, _ := strings.Cut(err.Error(), "alter table")
				test.remedy = "alter table" + remedy
			}
			exec(test.remedy)
			test.over.Preset = test.preset
			if _, err := eventstore.Open(t.Context(), conn, test.over); err != nil {
				t.Errorf("after what it says: %v", err)
			}
		})
	}
}

// Two tables of one name are told apart by the search path.
func TestPresetOnTheSearchPath(t *testing.T) {
	t.Parallel()
	l := newLayout(t, "messagedb")
	l.exec("create table public.messages (like message_store.messages including all)")
	inTx(t, l.db, func(tx pgx.Tx) {
		r, err := eventstore.Open(t.Context(), tx, eventstore.Mapping{Preset: "messagedb"})
		if err != nil || r.Relation() != "public.messages" {
			t.Fatalf("%+v, %v", r, err)
		}
		if !strings.Contains(r.Identity(), "split_part(e.stream_name") {
			t.Errorf("%s does not tell what the preset reads", r.Identity())
		}
	})
}

// Versions and naming strategies of a store differ in names, keys and columns, and its preset reads them all.
func TestPresetVariants(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		layout string
		sql    string
		m      eventstore.Mapping
	}{
		"Axon with quoted names": {layout: "axon_jdbc", m: eventstore.Mapping{Preset: "axon"}, sql: `
			alter table domainevententry rename to "DomainEventEntry";
			alter table "DomainEventEntry" rename globalindex to "globalIndex";
			alter table "DomainEventEntry" rename aggregateidentifier to "aggregateIdentifier";
			alter table "DomainEventEntry" rename sequencenumber to "sequenceNumber";
			alter table "DomainEventEntry" rename payloadtype to "payloadType";
			alter table "DomainEventEntry" rename timestamp to "timeStamp"`},
		"Axon with payloads of text": {layout: "axon_jdbc", m: eventstore.Mapping{Preset: "axon"}, sql: `
			alter table domainevententry alter payload type text using convert_from(payload, 'UTF8'), drop column metadata, drop column payloadrevision`},
		"Emmett before 0.36": {layout: "emmett", m: eventstore.Mapping{Preset: "emmett"}, sql: `
			delete from emt_messages where message_kind = 'C';
			alter table emt_messages rename to emt_events;
			alter table emt_events drop column message_kind;
			alter table emt_events rename message_type to event_type;
			alter table emt_events rename message_data to event_data;
			alter table emt_events rename message_metadata to event_metadata;
			alter table emt_events rename message_schema_version to event_schema_version`},
		"Message DB before 1.0": {layout: "messagedb", m: eventstore.Mapping{Preset: "messagedb"}, sql: `
			drop index message_store.messages_category;
			alter table message_store.messages set schema public;
			drop schema message_store cascade`},
		"Marten with tenants and a partition of archived events": {layout: "marten", m: eventstore.Mapping{Preset: "marten", AggregateID: "stream_id"}, sql: `
			alter table mt_events drop constraint fkey_mt_events_stream_id;
			alter table mt_streams drop constraint pkey_mt_streams_id, add primary key (tenant_id, id, is_archived);
			insert into mt_streams (tenant_id, id, type, is_archived) select 'other', id, 'other', is_archived from mt_streams;
			insert into mt_streams (tenant_id, id, type, is_archived) select tenant_id, id, 'archived', true from mt_streams where not is_archived on conflict do nothing`},
		"Marten without options": {layout: "marten", m: eventstore.Mapping{Preset: "marten"}, sql: `
			delete from mt_events where is_skipped;
			alter table mt_events drop column is_skipped, drop column headers`},
		"Sequent before 7.1": {layout: "sequent", m: eventstore.Mapping{Preset: "sequent"}, sql: `
			alter table sequent_schema.event_records drop column xact_id, alter id type int`},
		"EventStore without time zones": {layout: "eventstore", m: eventstore.Mapping{Preset: "eventstore"}, sql: `
			alter table streams drop column deleted_at;
			alter table events alter created_at type timestamp using created_at at time zone 'UTC'`},
		"eventsourcing with its own name": {layout: "eventsourcing", m: eventstore.Mapping{Preset: "eventsourcing"}, sql: `
			alter table bankaccounts_events rename to stored_events;
			alter table stored_events alter originator_id type text, alter originator_version type int, alter notification_id type int`},
		"Svrnty with offsets of streams": {layout: "svrnty", m: eventstore.Mapping{Preset: "svrnty"}, sql: `
			alter table event_streaming.events drop constraint events_pkey, add unique (stream_name, "offset"), add column global_position bigint generated always as identity unique;
			alter table event_streaming.events rename timestamp to stored_at`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLayout(t, test.layout)
			l.exec(test.sql)
			r := reader(t, l.db, test.m)
			n, aggregateTypes := 0, map[string]bool{}
			inTx(t, l.db, func(tx pgx.Tx) {
				for e, err := range r.Events(t.Context(), tx, eventstore.Selection{}) {
					if err != nil {
						t.Fatal(err)
					}
					aggregateTypes[e.AggregateType] = true
					n++
				}
			})
			if n != bankEvents-lateEvents || len(aggregateTypes) != 1 {
				t.Errorf("%d of %d events, of the types %v", n, bankEvents-lateEvents, aggregateTypes)
			}
			if _, err := r.Settle(t.Context(), l.db, eventstore.Wait{}); err != nil {
				t.Error(err)
			}
		})
	}
}
