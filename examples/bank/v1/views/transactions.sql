create table transactions%SUFFIX% (
    event_id    bigint      not null,
    account_id  uuid        not null,
    seq         bigint      not null,
    kind        text        not null,
    amount      bigint      not null,
    balance     bigint      not null,
    description text        not null,
    at          timestamptz not null
);
