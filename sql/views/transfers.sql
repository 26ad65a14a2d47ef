-- Transfers: one row per transfer between two accounts.
create table transfers%SUFFIX% (
    id           uuid        not null,
    from_account uuid        not null,
    to_iban      text        not null,
    to_account   uuid,        -- null until it has arrived
    amount       bigint      not null, -- in the currency's smallest unit
    sent_at      timestamptz not null,
    received_at  timestamptz
) with (fillfactor = 70);
