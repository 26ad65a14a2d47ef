-- Transactions: one row per movement of money, with the balance after it.
with movements as (
    select
        e.*,
        case
            when e.event_type in ('MoneyDeposited', 'TransferReceived') then (e.data ->> 'amount')::bigint
            else -(e.data ->> 'amount')::bigint
        end as amount
    from %EVENTS% e
    where e.event_type in ('MoneyDeposited', 'MoneyWithdrawn', 'TransferSent', 'TransferReceived')
)
select
    m.position as event_id,
    m.aggregate_id as account_id,
    m.sequence_number as seq,
    case m.event_type
        when 'MoneyDeposited' then 'deposit'
        when 'MoneyWithdrawn' then 'withdrawal'
        else 'transfer'
    end as kind,
    m.amount,
    sum(m.amount) over (partition by m.aggregate_id order by m.sequence_number rows unbounded preceding) as balance,
    case m.event_type
        when 'TransferSent' then 'to ' || (m.data ->> 'to_iban')
        when 'TransferReceived' then 'from ' || (m.data ->> 'from_iban')
        else m.data ->> 'description'
    end as description,
    m.created_at as at
from movements m
