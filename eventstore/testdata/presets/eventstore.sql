-- EventStore 1.4, of Commanded; JSON in bytea.
create table streams (
    stream_id bigserial primary key not null, stream_uuid text not null, stream_version bigint default 0 not null, created_at timestamptz default now() not null, deleted_at timestamptz
);
create unique index ix_streams_stream_uuid on streams (stream_uuid);
insert into streams (stream_id, stream_uuid, stream_version) values (0, '$all', 0);
create table events (
    event_id uuid primary key not null, event_type text not null, causation_id uuid null, correlation_id uuid null, data bytea not null, metadata bytea null,
    created_at timestamptz default now() not null
);
create table stream_events (
    event_id uuid not null references events (event_id), stream_id bigint not null references streams (stream_id), stream_version bigint not null,
    original_stream_id bigint references streams (stream_id), original_stream_version bigint, primary key (event_id, stream_id)
);
create unique index ix_stream_events on stream_events (stream_id, stream_version);
create table snapshots (source_uuid text primary key, source_version bigint not null, source_type text not null, data bytea not null, metadata bytea, created_at timestamptz default now() not null);
-- fill
insert into streams (stream_uuid, stream_version) select aggregate_id, max(sequence_number) from bank.batch group by aggregate_id
on conflict do nothing;
insert into events (event_id, event_type, data, metadata, created_at)
select md5(position::text)::uuid, event_type, convert_to(data::text, 'UTF8'), convert_to('{}', 'UTF8'), created_at from bank.batch;
insert into stream_events
select md5(position::text)::uuid, s.stream_id, sequence_number, s.stream_id, sequence_number
from bank.batch b join streams s on s.stream_uuid = b.aggregate_id::text
union all
select md5(position::text)::uuid, 0, position, s.stream_id, sequence_number
from bank.batch b join streams s on s.stream_uuid = b.aggregate_id::text;
update streams set stream_version = (select max(position) from bank.batch) where stream_id = 0;
-- odd: events that are linked to another stream
insert into streams (stream_id, stream_uuid, stream_version) values (1000000, 'large-transfers', 10);
insert into stream_events
select event_id, 1000000, 5000 + row_number() over (), original_stream_id, original_stream_version from stream_events where stream_id = 0 limit 20;
