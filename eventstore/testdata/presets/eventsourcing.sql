-- eventsourcing 9.2 for Python; the application's class is BankAccounts.
create table if not exists bankaccounts_events (
    originator_id uuid not null, originator_version bigint not null, topic text, state bytea, notification_id bigserial,
    primary key (originator_id, originator_version)
) with (autovacuum_enabled = false);
create unique index if not exists bankaccounts_events_notification_id_idx on bankaccounts_events (notification_id asc);
create table if not exists bankaccounts_snapshots (
    originator_id uuid not null, originator_version bigint not null, topic text, state bytea, primary key (originator_id, originator_version)
);
-- fill
insert into bankaccounts_events
select aggregate_id, sequence_number, 'bank.model:Account.' || event_type,
    convert_to((data || jsonb_build_object('timestamp', case when position % 4 = 1
        then to_jsonb(created_at) else jsonb_build_object('_type_', 'datetime_iso', '_data_', created_at) end))::text, 'UTF8'), position
from bank.batch;
select setval('bankaccounts_events_notification_id_seq', max(notification_id)) from bankaccounts_events;
-- odd: snapshots
insert into bankaccounts_snapshots select originator_id, originator_version, 'bank.model:Account', state from bankaccounts_events where originator_version = 2;
