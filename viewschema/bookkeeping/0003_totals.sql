-- Batches leave the rows of accumulating tables in side tables, which are merged between replay and indexes.
alter table %SCHEMA%.projector_tables
    add column partial_name text; -- replay: the side table, as long as there is one

-- The numbers of the later phases move behind those that they had: an older process that is still at work must not take an
-- index for a statistic.
alter table %SCHEMA%.projector_batches
    drop constraint projector_batches_phase_check;
update %SCHEMA%.projector_batches set phase = phase + 2 where phase > 1;
alter table %SCHEMA%.projector_batches
    add constraint projector_batches_phase_check check (phase in (1, 2, 4, 5)); -- 1 replay, 2 merge, 4 indexes, 5 analyze
