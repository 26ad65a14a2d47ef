-- Branch totals: one row per branch and currency.
create table branch_totals%SUFFIX% (
    branch   text   not null,
    currency text   not null,
    accounts bigint not null, -- that are open
    balance  bigint not null, -- of these, in the currency's smallest unit
    turnover bigint not null, -- of all that ever were open: what was moved, either way
    constraint branch_totals%SUFFIX%_pkey primary key (branch, currency)
) with (fillfactor = 50);
