-- The tables that held the events, by oid, when the cut was settled: the event table, or its partitions. One that comes to them later with
-- events at or below the cut brings what nobody has replayed.
alter table %SCHEMA%.projector_migrations add column event_tables oid[] not null default '{}';
