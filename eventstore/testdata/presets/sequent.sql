-- Sequent 7.1, with what the oddest rows of older versions look like.
create schema sequent_schema;
set local search_path = sequent_schema;
create table command_records (
    id bigserial primary key, user_id varchar, aggregate_id uuid, command_type varchar not null, event_aggregate_id varchar,
    event_sequence_number integer, command_json text not null, created_at timestamp(6) not null
);
create table stream_records (
    id bigserial primary key, created_at timestamp(6) not null, aggregate_type varchar not null, aggregate_id uuid not null, snapshot_threshold integer
);
create unique index index_stream_records_on_aggregate_id on stream_records (aggregate_id);
create table event_records (
    id                bigserial primary key,
    aggregate_id      uuid not null,
    sequence_number   integer not null,
    created_at        timestamp(6) without time zone not null,
    event_type        character varying not null,
    event_json        text not null,
    command_record_id integer not null,
    stream_record_id  integer not null,
    xact_id           bigint default pg_current_xact_id()::text::bigint
);
create unique index unique_event_per_aggregate on event_records
    (aggregate_id, sequence_number, (case event_type when 'Sequent::Core::SnapshotEvent' then 0 else 1 end));
create index snapshot_events on event_records (aggregate_id, sequence_number desc) where event_type = 'Sequent::Core::SnapshotEvent';
create index index_event_records_on_command_record_id on event_records (command_record_id);
create index index_event_records_on_event_type on event_records (event_type);
create index index_event_records_on_created_at on event_records (created_at);
create index index_event_records_on_xact_id on event_records (xact_id);
alter table event_records
    add constraint command_fkey foreign key (command_record_id) references command_records (id),
    add constraint stream_fkey foreign key (stream_record_id) references stream_records (id);
insert into command_records (command_type, command_json, created_at) values ('OpenAccount', '{}', now());
-- fill
set local search_path = sequent_schema;
insert into stream_records (created_at, aggregate_type, aggregate_id)
select min(created_at), 'Account', aggregate_id from bank.batch group by aggregate_id
on conflict do nothing;
insert into event_records (id, aggregate_id, sequence_number, created_at, event_type, event_json, command_record_id, stream_record_id)
select position, b.aggregate_id, sequence_number, b.created_at at time zone 'UTC', event_type,
    (data || jsonb_build_object('aggregate_id', b.aggregate_id, 'sequence_number', sequence_number, 'created_at', b.created_at))::text, 1, s.id
from bank.batch b join stream_records s on s.aggregate_id = b.aggregate_id;
select setval('event_records_id_seq', max(id)) from event_records;
-- odd: a snapshot has the sequence number of the next event
set local search_path = sequent_schema;
insert into event_records (id, aggregate_id, sequence_number, created_at, event_type, event_json, command_record_id, stream_record_id)
select row_number() over (), aggregate_id, sequence_number, created_at, 'Sequent::Core::SnapshotEvent', '{"data": "BAhvOg1B"}', 1, stream_record_id
from event_records where id % 101 = 0;
