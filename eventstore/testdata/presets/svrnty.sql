-- Svrnty.CQRS, as its documentation describes the table.
create schema event_streaming;
set local search_path = event_streaming;
create table events (
    "offset" bigserial primary key, event_id text not null unique, stream_name text not null, event_type text not null, data jsonb not null,
    metadata jsonb, "timestamp" timestamptz not null default now(), correlation_id text, causation_id text, version integer not null default 1
);
create index idx_events_stream_name on events (stream_name);
create index idx_events_timestamp on events ("timestamp");
create index idx_events_event_type on events (event_type);
-- fill
set local search_path = event_streaming;
insert into events ("offset", event_id, stream_name, event_type, data, metadata, "timestamp")
select position, gen_random_uuid(), 'account-' || aggregate_id, event_type, data, '{}', created_at
from bank.batch;
select setval('events_offset_seq', max("offset")) from events;
-- odd
