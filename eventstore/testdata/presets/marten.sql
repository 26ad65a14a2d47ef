-- Marten 8 with its optional columns.
create sequence mt_events_sequence;
create table mt_streams (
    id uuid not null, type varchar null, version bigint null, timestamp timestamptz not null default (now()), snapshot jsonb null, snapshot_version integer null,
    created timestamptz not null default (now()), tenant_id varchar null default '*DEFAULT*', is_archived bool null default false,
    constraint pkey_mt_streams_id primary key (id)
);
create table mt_events (
    seq_id bigint not null, id uuid not null, stream_id uuid null, version bigint not null, data jsonb not null, type varchar(500) not null,
    timestamp timestamptz not null default '(now())', tenant_id varchar null default '*DEFAULT*', mt_dotnet_type varchar null,
    correlation_id varchar null, causation_id varchar null, headers jsonb null, is_skipped boolean default false, is_archived bool null default false,
    constraint pkey_mt_events_seq_id primary key (seq_id),
    constraint fkey_mt_events_stream_id foreign key (stream_id) references mt_streams (id) on delete cascade
);
alter sequence mt_events_sequence owned by mt_events.seq_id;
create unique index pk_mt_events_stream_and_version on mt_events (stream_id, version);
create table mt_event_progression (name varchar primary key, last_seq_id bigint, last_updated timestamptz);
-- fill
insert into mt_streams (id, type, version) select aggregate_id, 'account', max(sequence_number) from bank.batch group by aggregate_id
on conflict do nothing;
insert into mt_events (seq_id, id, stream_id, version, data, type, timestamp, headers)
select position, gen_random_uuid(), aggregate_id, sequence_number, data, event_type, created_at, '{"by": "x"}'
from bank.batch;
select setval('mt_events_sequence', max(seq_id)) from mt_events;
-- odd: tombstones, an archived stream, a skipped event
insert into mt_streams (id, type, version, is_archived) values ('00000000-0000-0000-0000-0000000000aa', 'mt_tombstone', 0, false), ('00000000-0000-0000-0000-0000000000bb', 'account', 2, true);
insert into mt_events (seq_id, id, stream_id, version, data, type, is_archived, is_skipped)
select i, gen_random_uuid(), '00000000-0000-0000-0000-0000000000aa', i, '{}'::jsonb, 'tombstone', false, false from generate_series(1, 10) i
union all values (11::bigint, gen_random_uuid(), '00000000-0000-0000-0000-0000000000bb'::uuid, 1::bigint, '{}'::jsonb, 'AccountClosed', true, null),
    (12, gen_random_uuid(), '00000000-0000-0000-0000-0000000000bb', 2, '{}', 'AccountClosed', null, true);
