-- Aggregates that a migration leaves out of its tables, because one of their events cannot be projected. Their events count as
-- replayed. A row is locked by whoever relies on it: FOR SHARE to leave the aggregate out, FOR UPDATE to replay it.
create table %SCHEMA%.projector_parked_events (
    migration_id bigint      not null references %SCHEMA%.projector_migrations on delete cascade,
    aggregate_id text        not null,
    position     bigint      not null, -- of the event, like the following
    sequence     bigint      not null,
    event_type   text        not null,
    projector    text        not null, -- empty: the payload could not be decoded
    error        text        not null,
    parked_at    timestamptz not null default now(),
    primary key (migration_id, aggregate_id)
);
