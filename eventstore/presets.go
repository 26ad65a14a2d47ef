package eventstore

import (
	"fmt"
	"strings"
)

// presets are the event stores that we know. docs/event-stores.md says what each reads, what it leaves out, and where its
// limits are. Joins are left joins on keys: they hide and repeat nothing, and PostgreSQL leaves them out where nothing of
// them is read.
var presets = []preset{
	{
		name:    "sequent",
		tables:  []string{"event_records"},
		columns: []string{"id", "aggregate_id", "sequence_number", "event_type", "event_json", "created_at"},
		hint:    "Sequent 8 and later have preset sequent8",
		mapping: sequent,
	},
	{
		name:    "sequent8",
		tables:  []string{"events"},
		columns: []string{"aggregate_id", "partition_key", "sequence_number", "event_type_id", "event_json", "created_at", "xact_id"},
		hint:    "up to Sequent 7, the preset is sequent",
		mapping: sequent8,
	},
	{
		name:    "axon",
		tables:  []string{"domain_event_entry"},
		columns: []string{"aggregate_identifier", "sequence_number", "type", "payload_type", "payload", "time_stamp"},
		mapping: axon,
	},
	{
		name:    "svrnty",
		tables:  []string{"events"},
		columns: []string{"offset", "stream_name", "event_type"},
		mapping: svrnty,
	},
	{
		name:    "marten",
		tables:  []string{"mt_events"},
		columns: []string{"seq_id", "stream_id", "version", "type", "data", "timestamp"},
		mapping: marten,
	},
	{
		name:    "messagedb",
		tables:  []string{"messages"},
		columns: []string{"global_position", "stream_name", "position", "type", "data", "metadata", "time"},
		mapping: messagedb,
	},
	{
		name:    "emmett",
		tables:  []string{"emt_messages", "emt_events"},
		columns: []string{"global_position", "transaction_id", "stream_id", "stream_position", "partition", "is_archived", "created"},
		mapping: emmett,
	},
	{
		name:    "eventstore",
		tables:  []string{"stream_events"},
		columns: []string{"event_id", "stream_id", "stream_version", "original_stream_id", "original_stream_version"},
		hint:    "tables of EventStore before 0.14 have to be upgraded first: mix event_store.migrate",
		mapping: commanded,
	},
	{
		name:    "rails_event_store",
		tables:  []string{"event_store_events_in_streams"},
		columns: []string{"id", "stream", "position", "event_id"},
		mapping: railsEventStore,
	},
	{
		name:    "eventsourcing",
		columns: []string{"originator_id", "originator_version", "topic", "state", "notification_id"},
		mapping: eventsourcing,
	},
}

// sequent reads Sequent up to version 7. A snapshot has the sequence number of the event after it.
func sequent(t *table) Mapping {
	m := Mapping{
		Position: "id", AggregateID: "aggregate_id", Sequence: "sequence_number",
		Type: "event_type", Data: "event_json", Time: "created_at",
		Where: "e.event_type <> 'Sequent::Core::SnapshotEvent'",
	}
	if streams := t.sibling("stream_records"); streams != "" && t.column("stream_record_id") != "" {
		m.Join = "left join " + streams + " s on s.id = e.stream_record_id"
		m.AggregateType = "(s.aggregate_type)"
	}
	return m
}

// sequent8 reads Sequent from version 8. Without the default, events would come without a transaction id, and so behind the cut.
func sequent8(t *table) Mapping {
	id, _ := t.describe("xact_id")
	if own := strings.Contains(id.Default, "pg_current_xact_id") || strings.Contains(id.Default, "txid_current"); !own && t.given.Position == "" {
		t.refuse("%s.xact_id has no default, so new events have no transaction id; "+
			"type: alter table %[1]s alter column xact_id set default pg_current_xact_id()::text::bigint", t)
	}
	return Mapping{
		Join: fmt.Sprintf(`left join %s t on t.id = e.event_type_id
			left join %s a on a.aggregate_id = e.aggregate_id
			left join %s c on c.id = a.aggregate_type_id`, t.needs("event_types"), t.needs("aggregates"), t.needs("aggregate_types")),
		Position: "xact_id", Positions: PositionsOfTransactions,
		AggregateID: "aggregate_id", AggregateType: "(c.type)", Sequence: "sequence_number",
		Type: "(t.type)", Data: "event_json", Time: "created_at",
	}
}

// axon reads Axon 3 and 4. Events of no aggregate have no type. If the identity of an aggregate is its type and identifier, as
// in Axon 2, two of them can have one identifier.
func axon(t *table) Mapping {
	if t.column("global_index") == "" && t.given.Position == "" {
		t.refuse("%s has no global index, as in Axon 2; to add one while the application runs, type: projector events prepare", t)
	}
	if t.given.Where == "" && t.given.AggregateID == "" && !t.unique(t.String(), "aggregate_identifier", "sequence_number") {
		t.refuse("no unique index of %s has just the columns %[2]s and %[3]s, so aggregates of several types may have one identifier; "+
			"set Where to one type: %[4]s = '…'; or AggregateID to (%[4]s || '/' || e.%[2]s); or to %[2]s, if you know that none is shared",
			t, t.column("aggregate_identifier"), t.column("sequence_number"), t.sql("type"))
	}
	return Mapping{
		Position: t.column("global_index"), AggregateID: t.column("aggregate_identifier"), AggregateType: t.column("type"),
		Sequence: t.column("sequence_number"), Type: t.column("payload_type"), Data: t.column("payload"), Time: t.column("time_stamp"),
		Metadata: t.column("meta_data"), SchemaVersion: t.column("payload_revision"),
		Where: t.sql("type") + " is not null",
	}
}

// svrnty reads Svrnty.CQRS. Its offsets order the store, or each stream by itself.
func svrnty(t *table) Mapping {
	position := t.column("offset")
	if t.given.Position == "" && !t.unique(t.String(), "offset") {
		position = ""
		for _, c := range []string{"global_position", "global_offset", "position", "sequence_number", "id"} {
			if d, ok := t.describe(c); ok && (d.Type == "int8" || d.Type == "int4") && t.unique(t.String(), c) {
				position = d.Name
				break
			}
		}
		if position == "" {
			t.refuse(`"offset" is not unique in %s, so it numbers the events of a stream, and nothing orders all of them; `+
				`add a column, which locks the table while it is written: `+
				`alter table %[1]s add column global_position bigint generated always as identity unique`, t)
		}
	}
	return Mapping{
		Position: position, AggregateID: t.column("stream_name", "stream_id"), Sequence: t.column("offset"),
		Type: t.column("event_type"), Data: t.column("data", "event_data", "payload"),
		Time:     t.column("timestamp", "stored_at", "created_at", "occurred_at"),
		Metadata: t.column("metadata"), SchemaVersion: t.column("version", "event_version"),
	}
}

// marten reads Marten. Its sequence is drawn from before the transaction that inserts, unless it appends in one of the quick
// modes; the catalog does not show which.
func marten(t *table) Mapping {
	m := Mapping{
		Position: "seq_id", Positions: PositionsDrawnAhead,
		AggregateID: "stream_id", Sequence: "version", Type: "type", Data: "data", Time: "timestamp",
		Metadata: t.column("headers"), Tenant: t.column("tenant_id"),
		Where: "e.type <> 'tombstone'", // fills the gap of a save that failed
	}
	for _, flag := range []string{"is_archived", "is_skipped"} {
		if t.column(flag) != "" {
			m.Where += " and e." + flag + " is not true"
		}
	}
	if t.column("bdata") != "" { // data is empty then; null is an error where {} would pass
		m.Data = "(case when e.bdata is null then e.data end)"
	}
	streams := t.needs("mt_streams")
	conjoined := t.unique(streams, "tenant_id", "id") || t.unique(streams, "tenant_id", "id", "is_archived")
	if conjoined && t.given.Where == "" && t.given.AggregateID == "" {
		t.refuse("the store has several tenants (the key of %s has tenant_id), whose streams may have the same ids; "+
			"set Where to one tenant: e.tenant_id = '…' and %s; "+
			"or AggregateID to (e.tenant_id || '/' || e.stream_id); or to stream_id, if you know that none is shared", streams, m.Where)
	}
	if t.given.Where == "" && t.unique(t.String(), "seq_id", "tenant_id") {
		t.refuse("each tenant has a sequence of its own, so seq_id is not unique; "+
			"set Where to one tenant: e.tenant_id = '…' and %s", m.Where)
	}
	m.Join = "left join " + streams + " s on s.id = e.stream_id"
	if conjoined {
		m.Join += " and s.tenant_id = e.tenant_id"
	}
	if t.unique(streams, "id", "is_archived") || t.unique(streams, "tenant_id", "id", "is_archived") {
		m.Join += " and s.is_archived = e.is_archived"
	}
	m.AggregateType = "(s.type)"
	return m
}

// messagedb reads Message DB. What comes before the first dash of a stream's name is its category; a name without one is no
// entity's. Commands, the positions of consumers, and snapshots are streams like all others.
func messagedb(*table) Mapping {
	return Mapping{
		Position: "global_position", Sequence: "position",
		AggregateID: "stream_name", AggregateType: "(split_part(e.stream_name, '-', 1))",
		Type: "type", Data: "data", Time: "time", Metadata: "metadata",
		Where: `strpos(e.stream_name, '-') > 0 and split_part(e.stream_name, '-', 1) !~ ':(.*\+)?(command|position|snapshot)'`,
	}
}

// emmett reads Emmett, also before 0.36, when messages were called events. Versions 0.43 quote the schema version.
func emmett(t *table) Mapping {
	m := Mapping{
		Join: "left join " + t.needs("emt_streams") + ` s
			on s.stream_id = e.stream_id and s.partition = e.partition and s.is_archived = e.is_archived`,
		Position: "global_position", AggregateID: "stream_id", AggregateType: "(s.stream_type)", Sequence: "stream_position",
		Type: t.column("message_type", "event_type"), Data: t.column("message_data", "event_data"), Time: "created",
		Metadata: t.column("message_metadata", "event_metadata"),
		Where:    "not e.is_archived and e.partition = 'emt:default'",
	}
	if version := t.column("message_schema_version", "event_schema_version"); version != "" {
		m.SchemaVersion = "(trim(both '''' from e." + version + "))"
	}
	if t.column("message_kind") != "" {
		m.Where += " and e.message_kind = 'E'"
	}
	return m
}

// commanded reads EventStore, the one of Commanded. Stream 0 is $all: it has each event once, and its row is locked by every
// writer until it commits.
func commanded(t *table) Mapping {
	return Mapping{
		Join: fmt.Sprintf(`join %s d on d.event_id = e.event_id and e.stream_id = 0
			join %s s on s.stream_id = e.original_stream_id`, t.needs("events"), t.needs("streams")),
		Position: "stream_version", Positions: PositionsInCommitOrder,
		AggregateID: "(s.stream_uuid)", Sequence: "original_stream_version",
		Type: "(d.event_type)", Data: "(d.data)", Time: "(d.created_at)", Metadata: "(d.metadata)",
	}
}

// railsEventStore reads Rails Event Store from 2.0. The home of an event is the stream that it was appended to, which is the
// first that it was linked to; further links are copies. An event that is published to no stream and linked later is one from
// then on, so it is the link's number that counts. Positions in a stream can be null.
func railsEventStore(t *table) Mapping {
	own := func(link string) string { return link + `.stream not like '$by\_%' and ` + link + `.stream <> 'all'` }
	m := Mapping{
		Join: fmt.Sprintf(`join %s d on d.event_id = e.event_id and %s
			and not exists (select from %s other where other.event_id = e.event_id and other.id < e.id and %s)`,
			t.needs("event_store_events"), own("e"), t, own("other")),
		Position: "id", AggregateID: "stream", AggregateType: "(split_part(e.stream, '$', 1))", Sequence: "id",
		Type: "(d.event_type)", Data: "(d.data)", Time: "(d.created_at)", Metadata: "(d.metadata)",
	}
	switch typ := t.siblingColumn("event_store_events", "data"); typ {
	case "json", "jsonb": // a string of JSON was serialized twice
		m.Data = fmt.Sprintf("(case %[1]s_typeof(d.data) when 'string' then (d.data #>> '{}')::%[1]s else d.data end)", typ)
	}
	if t.siblingColumn("event_store_events", "event_id") == "" {
		t.refuse("the tables are those of Rails Event Store 1; upgrade them to those of 2.0")
	}
	return m
}

// eventsourcing reads eventsourcing for Python. The table's name is made of the application's. The time is in the state, as an
// object or, with some transcoders, as text; "offset 0" keeps PostgreSQL from parsing the state for each use.
func eventsourcing(t *table) Mapping {
	m := Mapping{
		Position: "notification_id", AggregateID: "originator_id", Sequence: "originator_version",
		Type: "topic", AggregateType: `(substring(e.topic from ':(.*)\.[^.]*$'))`, Data: "state",
	}
	if t.given.Data == "" { // it is JSON, then
		m.Time = `(select coalesce(j -> 'timestamp' ->> '_data_', j ->> 'timestamp')::timestamptz
			from (select convert_from(e.state, 'UTF8')::jsonb as j offset 0) s)`
	}
	return m
}
