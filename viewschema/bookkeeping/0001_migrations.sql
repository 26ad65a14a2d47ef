-- %SCHEMA% is the quoted name of the view schema. projector_bookkeeping lists which of these files were applied.

-- One row per migration of the view schema. The active one names the current version.
create table %SCHEMA%.projector_migrations (
    id           bigint      generated always as identity primary key,
    from_version integer     not null,
    to_version   integer     not null check (to_version > 0),
    state        text        not null check (state in ('building', 'built', 'aborting', 'active', 'archived')),
    cut          bigint      not null default 0, -- every event at or below it is in the new tables; see projector_replayed_ids
    cut_reason   text        not null default '', -- why the first cut was 0
    fingerprint  jsonb       not null, -- of the definition that builds it
    created_at   timestamptz not null default now(),
    built_at     timestamptz,
    active_at    timestamptz,
    held_off     interval    -- how long the cutover held off writers
);

-- One migration at a time, and one current version.
create unique index projector_one_migration on %SCHEMA%.projector_migrations ((true))
    where state in ('building', 'built', 'aborting');
create unique index projector_one_version on %SCHEMA%.projector_migrations ((true))
    where state = 'active';

-- The tables that a migration builds, alters or drops. Nothing is renamed or dropped that is not listed here.
create table %SCHEMA%.projector_tables (
    migration_id  bigint not null references %SCHEMA%.projector_migrations on delete cascade,
    table_name    text   not null, -- the name that readers use
    change        text   not null check (change in ('replay', 'alter', 'drop')),
    projector     text,
    built_name    text,  -- replay: its name until the cutover
    archived_name text,  -- replay, drop: what the former table is called since the cutover; null if there was none
    primary key (migration_id, table_name)
);

-- The work of a migration. A batch that runs is locked by its worker and reads as pending to others; it is marked as done
-- in the transaction that holds its rows.
create table %SCHEMA%.projector_batches (
    migration_id bigint   not null references %SCHEMA%.projector_migrations on delete cascade,
    number       integer  not null,
    phase        smallint not null check (phase in (1, 2, 3)), -- 1 replay, 2 indexes, 3 analyze
    from_id      text,    -- replay: the aggregates from here …
    to_id        text,    -- … to before here; null: open
    table_name   text,    -- indexes, analyze
    estimate     bigint   not null default 0, -- events
    events       bigint   not null default 0,
    rows         bigint   not null default 0,
    worker       text,
    started_at   timestamptz,
    done_at      timestamptz,
    primary key (migration_id, number)
);

-- Positions above the migration's cut whose events the new tables hold.
create table %SCHEMA%.projector_replayed_ids (
    migration_id bigint not null,
    position     bigint not null,
    primary key (migration_id, position)
);
