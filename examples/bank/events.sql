-- The bank's event store. Projector reads it and never writes to it.
create table events (
    position        bigint      generated always as identity primary key,
    aggregate_id    uuid        not null,
    sequence_number bigint      not null,
    event_type      text        not null,
    data            jsonb       not null,
    created_at      timestamptz not null default now(),
    unique (aggregate_id, sequence_number)
);
