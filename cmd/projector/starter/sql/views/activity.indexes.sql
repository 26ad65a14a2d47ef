-- Runs after the rows are loaded, which is faster.
alter table activity%SUFFIX% add constraint activity%SUFFIX%_pkey primary key (aggregate_id);
