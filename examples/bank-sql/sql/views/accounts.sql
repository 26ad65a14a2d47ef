-- Accounts: one row per open account.
create table accounts%SUFFIX% (
    id        uuid        not null,
    owner     text        not null,
    iban      text        not null,
    currency  text        not null,
    branch    text        not null,
    balance   bigint      not null, -- in the currency's smallest unit
    version   bigint      not null, -- the sequence number of the last event
    opened_at timestamptz not null
) with (fillfactor = 50);
