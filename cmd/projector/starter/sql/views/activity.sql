-- While a new version is built, the table is called activity_2 beside the live one, so %SUFFIX% is in every name that must
-- be unique in the schema.
create table activity%SUFFIX% (
    aggregate_id {{.ID}} not null,
    events       bigint not null,
    first_at     timestamptz,
    last_at      timestamptz
);
