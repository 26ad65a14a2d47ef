-- Axon 3 and 4 with their own tables: PostgresEventTableFactory.
create table DomainEventEntry (
    globalIndex bigserial not null, aggregateIdentifier varchar(255) not null, sequenceNumber bigint not null, type varchar(255),
    eventIdentifier varchar(255) not null, metaData bytea, payload bytea not null, payloadRevision varchar(255), payloadType varchar(255) not null,
    timeStamp varchar(255) not null,
    primary key (globalIndex), unique (aggregateIdentifier, sequenceNumber), unique (eventIdentifier)
);
-- fill
insert into DomainEventEntry
select position, aggregate_id, sequence_number - 1, 'Account', gen_random_uuid(), '{}', convert_to(data::text, 'UTF8'), null, event_type,
    to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
from bank.batch;
select setval('domainevententry_globalindex_seq', max(globalIndex)) from DomainEventEntry;
-- odd: events of no aggregate
insert into DomainEventEntry
select i, 'e-' || i, 0, null, 'e-' || i, null, '{}', null, 'ReportSent', '2024-02-02T10:11:12.123Z'
from generate_series(1, 20) i;
