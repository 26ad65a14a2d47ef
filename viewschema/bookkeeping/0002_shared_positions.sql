-- In stores whose positions are transaction ids, several aggregates can have events of the same position. A transaction's
-- events of one aggregate become visible at once, so with the aggregate the key is exact.
alter table %SCHEMA%.projector_replayed_ids
    add column aggregate_id text not null default '', -- empty where positions are unique
    drop constraint projector_replayed_ids_pkey,
    add primary key (migration_id, position, aggregate_id);
