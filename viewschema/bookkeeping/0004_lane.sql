-- The ordered lane of a migration that replays projectors with an order other than ByAggregate: their tables hold the events at
-- or below the position, and no others.
create table %SCHEMA%.projector_lanes (
    migration_id bigint primary key references %SCHEMA%.projector_migrations on delete cascade,
    position     bigint not null default 0,
    events       bigint not null default 0,
    rows         bigint not null default 0,
    worker       text
);
