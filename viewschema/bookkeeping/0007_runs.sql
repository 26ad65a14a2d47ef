-- What was done to the view schema: a row per command that brought it forward, or back. It outlives its migration. A process that is
-- at work says so about every second; one that died has said so for the last time at seen_at.
create table %SCHEMA%.projector_runs (
    id            bigint      generated always as identity primary key,
    migration_id  bigint,     -- null: there is none, or it was not known yet
    command       text        not null, -- migrate online, migrate catchup, migrate offline, migrate abort, rollback
    from_version  integer     not null,
    to_version    integer     not null,
    program       text        not null default '', -- the binary and its version
    host          text        not null default '',
    os_user   text        not null default '', -- of the host
    role          text        not null default session_user, -- of the database
    pid           integer     not null default 0, -- of the process, on its host
    started_at    timestamptz not null default clock_timestamp(),
    seen_at       timestamptz not null default clock_timestamp(),
    ended_at      timestamptz, -- null: it is at work, or it died
    outcome       text        check (outcome in ('done', 'failed', 'interrupted')), -- null: it has not ended
    error         text        not null default '', -- may tell of payloads
    failed        text        not null default '', -- the same without payloads
    failed_batch  integer,    -- the batch that the error is about
    events        bigint      not null default 0, -- applied by this run
    rows          bigint      not null default 0,
    held_off      interval,   -- how long the cutover held off writers
    holding       text        not null default '', -- why it holds back at this moment; empty: it does not
    phases        jsonb       not null default '{}' -- seconds in each phase of a rebuild
);
create index projector_runs_started on %SCHEMA%.projector_runs (started_at);

-- What the processes that work on a migration keep to, all together. They read it about every second. There is no foreign key to the
-- migration: it would have a change wait for whoever has locked that, such as a verification.
create table %SCHEMA%.projector_throttles (
    migration_id          bigint      primary key,
    paused                boolean     not null default false,
    max_events_per_second bigint      check (max_events_per_second > 0), -- null: no limit, like the following
    max_lag               interval    check (max_lag > '0'), -- of the standbys
    max_sessions          integer     check (max_sessions > 0), -- of others, active at once
    max_wal_rate          bigint      check (max_wal_rate > 0), -- bytes per second that the server writes
    changed_at            timestamptz not null default now(),
    changed_by            text        not null default session_user
);
