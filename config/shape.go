package config

// The types below are the shape of projector.yaml. The tag key has a key's name, doc what it means, values what it may be.
// Messages are made from them, and projector.schema.json.

type file struct {
	Database       text               `key:"database" doc:"URL of the database with the view tables, and the events unless events_database is given. --database-url and DATABASE_URL go before it. ${NAME} stands for an environment variable: keep passwords there."`
	EventsDatabase text               `key:"events_database" doc:"URL of the database with the events, if it is another one; ${NAME} stands for an environment variable. Not for tables that are queries: PostgreSQL reads the events of a query and writes its rows in one database."`
	ViewSchema     text               `key:"view_schema" doc:"The PostgreSQL schema of the view tables and of the bookkeeping. Default: view_schema."`
	Views          text               `key:"views" doc:"The folder of the tables' SQL files, relative to this file: <table>.sql, <table>.indexes.sql, <table>_<version>.sql. Default: sql/views."`
	Source         source             `key:"source" doc:"Where the events are. Each key replaces what the preset says; without a preset, a table events (position, aggregate_id, sequence_number, event_type, data, created_at). A column can also be an SQL expression in parentheses, over the relation with the alias e and what join adds."`
	Projectors     section[projected] `key:"projectors,required" doc:"The projectors by name. A projector is what a version replays: one table or several."`
	Versions       section[version]   `key:"versions,required" doc:"What each version of the view schema changes, by its number, from 1 on without a gap. The highest is the target."`
}

// source has the fields of eventstore.Mapping.
type source struct {
	Preset        text `key:"preset" doc:"The application's framework, whose tables are known." values:"sequent,sequent8,axon,svrnty,marten,messagedb,emmett,eventstore,rails_event_store,eventsourcing"`
	Relation      text `key:"relation" doc:"The table, partitioned table or view with the events, as SQL would name it: events, public.\"Events\"."`
	Join          text `key:"join" doc:"SQL that comes after the relation: left join public.types t on t.id = e.type_id. It must not repeat an event."`
	Position      text `key:"position" doc:"int or bigint, above 0; orders the whole store."`
	AggregateID   text `key:"aggregate_id" doc:"uuid or text; the aggregate, or stream, of the event."`
	AggregateType text `key:"aggregate_type" doc:"text; optional."`
	Sequence      text `key:"sequence" doc:"The event's place in its aggregate, ascending."`
	Type          text `key:"type" doc:"text; names the event's type."`
	Data          text `key:"data" doc:"The event's JSON: json, jsonb, text, bytea, or the oid of a large object."`
	Metadata      text `key:"metadata" doc:"Like data; optional."`
	Time          text `key:"time" doc:"timestamp, or text that PostgreSQL reads as one; without a zone it is UTC."`
	SchemaVersion text `key:"schema_version" doc:"The version of the payload; read as text; optional."`
	Tenant        text `key:"tenant" doc:"Read as text; optional."`
	Partition     text `key:"partition" doc:"uuid or text: what projectors in Go with the order ByPartition group events by; optional."`
	Where         text `key:"where" doc:"SQL: only rows for which this holds are events."`
	Positions     text `key:"positions" doc:"How far positions can be trusted: drawn ahead, in an earlier transaction than the event's; in commit order; or the ids of the transactions that inserted the events. Otherwise they come from the column's sequence, in the transaction that inserts the event." values:"drawn ahead,commit order,transaction id"`
}

type projected struct {
	Revision number            `key:"revision" doc:"Names the state of the projector's code. A change of a query is noticed without it."`
	Tables   section[sqlTable] `key:"tables,required" doc:"The view tables by name, without schema. A table belongs to one projector."`
}

type sqlTable struct {
	Aggregate text `key:"aggregate,required" doc:"The column with the aggregate's id. Every row derives from the events of that aggregate alone."`
	Query     text `key:"query" doc:"A select whose columns are named like the table's; %EVENTS% stands for the events."`
	QueryFile text `key:"query_file" doc:"The file with the query, relative to this file. Instead of query."`
}

type version struct {
	Replay []text `key:"replay" doc:"Projectors whose tables are built anew from all events."`
	Alter  []text `key:"alter" doc:"Tables that <table>_<version>.sql changes in place, in the cutover."`
	Drop   []text `key:"drop" doc:"Tables that no projector owns any more; they are archived."`
}

// section is a mapping whose keys the file chooses, in the order of the file.
type section[V any] []entry[V]

type entry[V any] struct {
	Key   text
	Value V
}

// text and number are values and where they are; a place of zero means that the file does not have them.
type text struct {
	value string
	place
}

type number struct {
	value int
	place
}

type place struct{ line, column int }

func (p place) given() bool { return p.line > 0 }
