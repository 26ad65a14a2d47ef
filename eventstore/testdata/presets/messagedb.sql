-- Message DB 1.3.
create schema message_store;
set local search_path = message_store, public;
create table messages (
    global_position bigserial not null, position bigint not null, time timestamp without time zone default (now() at time zone 'utc') not null,
    stream_name text not null, type text not null, data jsonb, metadata jsonb, id uuid not null default gen_random_uuid()
);
alter table messages add primary key (global_position) not deferrable initially immediate;
create function category(stream_name varchar) returns varchar language plpgsql immutable as $$ begin return split_part(stream_name, '-', 1); end; $$;
create unique index messages_id on messages (id);
create unique index messages_stream on messages (stream_name, position);
create index messages_category on messages (category(stream_name), global_position, category(metadata ->> 'correlationStreamName'));
-- fill
set local search_path = message_store, public;
insert into messages (global_position, position, time, stream_name, type, data, metadata)
select position, sequence_number - 1, created_at at time zone 'UTC', 'account-' || aggregate_id, event_type, data, '{"correlationStreamName": "x"}'
from bank.batch;
select setval('messages_global_position_seq', max(global_position)) from messages;
-- odd: commands, the position of a consumer, a snapshot, a category as a stream, and another entity
set local search_path = message_store, public;
insert into messages (global_position, position, stream_name, type, data) values
    (1, 0, 'account:command-7', 'OpenAccount', '{}'), (2, 0, 'account:position-consumer', 'Recorded', '{}'),
    (3, 0, 'account:snapshot-7', 'Recorded', '{}'), (4, 0, 'account', 'AccountClosed', '{}'), (5, 0, 'account:v2+command-7', 'OpenAccount', '{}');
