-- Transactions: one row per movement of money, with the balance after it.
create table transactions%SUFFIX% (
    event_id    bigint      not null,
    account_id  uuid        not null,
    seq         bigint      not null,
    kind        text        not null,
    amount      bigint      not null,
    balance     bigint      not null,
    description text        not null,
    at          timestamptz not null,
    constraint transactions%SUFFIX%_amount check (amount <> 0)
);
