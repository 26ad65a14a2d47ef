-- Axon 4 with Hibernate 5 and Spring's naming strategy.
create sequence hibernate_sequence start 1 increment 1;
create table domain_event_entry (
    global_index         bigint not null primary key,
    event_identifier     varchar(255) not null unique,
    meta_data            oid,
    payload              oid not null,
    payload_revision     varchar(255),
    payload_type         varchar(255) not null,
    time_stamp           varchar(255) not null,
    aggregate_identifier varchar(255) not null,
    sequence_number      bigint not null,
    type                 varchar(255),
    unique (aggregate_identifier, sequence_number)
);
create table snapshot_event_entry (
    aggregate_identifier varchar(255) not null, sequence_number bigint not null, type varchar(255) not null, event_identifier varchar(255) not null unique,
    meta_data oid, payload oid not null, payload_revision varchar(255), payload_type varchar(255) not null, time_stamp varchar(255) not null,
    primary key (aggregate_identifier, sequence_number, type)
);
-- fill
insert into domain_event_entry
select position, gen_random_uuid(), lo_from_bytea(0, '{"traceId": "t"}'), lo_from_bytea(0, convert_to(data::text, 'UTF8')), '1.0', event_type,
    to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), aggregate_id, sequence_number - 1, 'Account'
from bank.batch;
-- odd: events of no aggregate, and snapshots
insert into domain_event_entry
select i, 'e-' || i, null, lo_from_bytea(0, '{}'), null, 'ReportSent', '2024-02-02T10:11:12.123Z', 'e-' || i, 0, null
from generate_series(1, 20) i;
insert into snapshot_event_entry
select aggregate_identifier, sequence_number, type, gen_random_uuid(), null, payload, null, 'AccountSnapshot', time_stamp
from domain_event_entry where sequence_number = 2;
