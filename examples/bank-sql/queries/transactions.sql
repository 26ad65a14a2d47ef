-- Transactions: one row per movement of money, with the balance after it.
with movements as (
    select
        e.position,
        e.aggregate_id,
        e.sequence_number,
        case e.event_type
            when 'MoneyDeposited' then 'deposit'
            when 'MoneyWithdrawn' then 'withdrawal'
            else 'transfer'
        end as kind,
        case when e.event_type in ('MoneyDeposited', 'TransferReceived') then 1 else -1 end * (e.data ->> 'amount')::bigint as amount,
        case e.event_type
            when 'TransferSent' then 'to ' || (e.data ->> 'to_iban')
            when 'TransferReceived' then 'from ' || (e.data ->> 'from_iban')
            else e.data ->> 'description'
        end as description,
        e.created_at
    from %EVENTS% e
    where e.event_type in ('MoneyDeposited', 'MoneyWithdrawn', 'TransferSent', 'TransferReceived')
    order by e.aggregate_id, e.sequence_number -- keeps PostgreSQL from computing the amount again for the sum
)
select
    m.position as event_id,
    m.aggregate_id as account_id,
    m.sequence_number as seq,
    m.kind,
    m.amount,
    sum(m.amount) over (partition by m.aggregate_id order by m.sequence_number rows unbounded preceding) as balance,
    m.description,
    m.created_at as at
from movements m
