-- Commits by which a snapshot of a standby is told to be new enough to read events from: it has the row. One is made before such a
-- read and deleted after it. There is no foreign key to the migration, for the reason that the throttles have none.
create table %SCHEMA%.projector_marks (
    id            uuid        primary key default gen_random_uuid(),
    migration_id  bigint      not null,
    made_at       timestamptz not null default clock_timestamp()
);
