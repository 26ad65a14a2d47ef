-- Rails Event Store 2.15 and 3.0, with jsonb.
create table event_store_events (
    id bigserial primary key, event_id uuid not null, event_type varchar not null, metadata jsonb, data jsonb not null,
    created_at timestamp(6) not null, valid_at timestamp(6)
);
create unique index index_event_store_events_on_event_id on event_store_events (event_id);
create index index_event_store_events_on_event_type on event_store_events (event_type);
create table event_store_events_in_streams (
    id bigserial primary key, stream varchar not null, position integer null, event_id uuid not null references event_store_events (event_id), created_at timestamp(6) not null
);
create unique index index_event_store_events_in_streams_on_stream_and_position on event_store_events_in_streams (stream, position);
create unique index index_event_store_events_in_streams_on_stream_and_event_id on event_store_events_in_streams (stream, event_id);
create index index_event_store_events_in_streams_on_event_id on event_store_events_in_streams (event_id);
-- fill
insert into event_store_events (id, event_id, event_type, metadata, data, created_at)
select position, md5(position::text)::uuid, event_type, '{"correlation_id": "c"}', case when position % 5 = 0 then to_jsonb(data::text) else data end, created_at at time zone 'UTC'
from bank.batch;
insert into event_store_events_in_streams (id, stream, position, event_id, created_at)
select position, 'Account$' || aggregate_id, case when position % 3 > 0 then sequence_number - 1 end, md5(position::text)::uuid, created_at at time zone 'UTC'
from bank.batch;
select setval('event_store_events_id_seq', max(id)) from event_store_events;
select setval('event_store_events_in_streams_id_seq', max(id)) from event_store_events_in_streams;
-- odd: events of no stream, links that the store makes by itself, and links to streams of the application
insert into event_store_events (id, event_id, event_type, data, created_at)
select i, md5(i::text)::uuid, 'ReportSent', '{}', now() from generate_series(1, 10) i;
insert into event_store_events_in_streams (id, stream, event_id, created_at)
select 0 + i, '$by_type_ReportSent', md5(i::text)::uuid, now() from generate_series(1, 5) i
union all
select 10 + i, 'all', md5(i::text)::uuid, now() from generate_series(1, 5) i
union all
select id - 1, '$by_type_' || event_type, event_id, created_at from event_store_events where id > 100 and id % 4 = 1
union all
select id + 1, 'LargeTransfers', event_id, created_at from event_store_events where id > 100 and id % 4 = 1;
