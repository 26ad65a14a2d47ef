-- A rollback is a migration whose tables are the archived ones of the migration that it takes back. It has that one's ledger for as
-- long as it is under way, and for good when it is cut over.
alter table %SCHEMA%.projector_migrations
    add column takes_back bigint references %SCHEMA%.projector_migrations, -- null: none
    add column complete   boolean not null default false; -- when it was cut over, its ledger had every event that there was
