-- Emmett 0.43.
create sequence emt_global_message_position;
create table emt_streams (
    stream_id text not null, stream_position bigint not null, partition text not null default 'emt:default', stream_type text not null,
    stream_metadata jsonb not null, is_archived boolean not null default false, primary key (stream_id, partition, is_archived)
) partition by list (partition);
create unique index idx_streams_unique on emt_streams (stream_id, partition, is_archived) include (stream_position);
create table emt_messages (
    stream_position bigint not null, global_position bigint default nextval('emt_global_message_position'), transaction_id xid8 not null,
    created timestamptz not null default now(), is_archived boolean not null default false, message_kind varchar(1) not null default 'E',
    stream_id text not null, partition text not null default 'emt:default', message_schema_version text not null, message_id text not null,
    message_type text not null, message_data jsonb not null, message_metadata jsonb not null,
    primary key (stream_id, stream_position, partition, is_archived)
) partition by list (partition);
create index idx_messages_transaction_id_global_position on emt_messages (transaction_id, global_position);
create table emt_messages_emt_default partition of emt_messages for values in ('emt:default') partition by list (is_archived);
create table emt_messages_emt_default_active partition of emt_messages_emt_default for values in (false);
create table emt_messages_emt_default_archived partition of emt_messages_emt_default for values in (true);
create table emt_messages_other partition of emt_messages for values in ('other');
create table emt_streams_emt_default partition of emt_streams for values in ('emt:default') partition by list (is_archived);
create table emt_streams_emt_default_active partition of emt_streams_emt_default for values in (false);
create table emt_streams_emt_default_archived partition of emt_streams_emt_default for values in (true);
-- fill
insert into emt_streams (stream_id, stream_position, stream_type, stream_metadata)
select 'account-' || aggregate_id, max(sequence_number), 'account', '{}' from bank.batch group by aggregate_id
on conflict do nothing;
insert into emt_messages (stream_position, global_position, transaction_id, created, stream_id, message_schema_version, message_id, message_type, message_data, message_metadata)
select sequence_number, position, pg_current_xact_id(), created_at, 'account-' || aggregate_id, '''1''', gen_random_uuid(), event_type, data, '{"correlationId": "c"}'
from bank.batch;
select setval('emt_global_message_position', max(global_position)) from emt_messages;
-- odd: commands, archived messages, another partition
insert into emt_messages (stream_position, global_position, transaction_id, is_archived, message_kind, stream_id, partition, message_schema_version, message_id, message_type, message_data, message_metadata)
values (1, 1, pg_current_xact_id(), false, 'C', 'account-7', 'emt:default', '1', 'c', 'OpenAccount', '{}', '{}'),
    (1, 2, pg_current_xact_id(), true, 'E', 'account-8', 'emt:default', '1', 'a', 'AccountClosed', '{}', '{}'),
    (1, 3, pg_current_xact_id(), false, 'E', 'account-9', 'other', '1', 'o', 'AccountClosed', '{}', '{}');
