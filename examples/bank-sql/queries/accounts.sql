-- Accounts: one row per open account.
select
    e.aggregate_id as id,
    -- the last name: a maximum, since an aggregate with an order by would have all events sorted
    substr(
        max((to_char(e.sequence_number, 'fm0000000000000000000') || (e.data ->> 'owner_name')) collate "C")
            filter (where e.event_type in ('AccountOpened', 'AccountRenamed')),
        20) as owner,
    max(e.data ->> 'iban') filter (where e.event_type = 'AccountOpened') as iban,
    max(e.data ->> 'currency') filter (where e.event_type = 'AccountOpened') as currency,
    max(e.data ->> 'branch') filter (where e.event_type = 'AccountOpened') as branch,
    sum(case
        when e.event_type in ('MoneyDeposited', 'TransferReceived') then (e.data ->> 'amount')::bigint
        when e.event_type in ('MoneyWithdrawn', 'TransferSent') then -(e.data ->> 'amount')::bigint
        else 0
    end) as balance,
    max(e.sequence_number) as version,
    max(e.created_at) filter (where e.event_type = 'AccountOpened') as opened_at
from %EVENTS% e
group by e.aggregate_id
having not bool_or(e.event_type = 'AccountClosed')
