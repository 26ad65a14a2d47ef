-- As many events, 30% of which are one account's, spread over the whole store. The others are the first 70% of those that
-- there were: nobody acts on an account that was never opened.
with size as (
    select max(position) as n, floor(max(position) * 0.7)::bigint as kept, min(created_at) as began
    from former.events
), merged as (
    select e.position / s.kept::numeric as place, e.aggregate_id, e.sequence_number, e.event_type, e.data, e.created_at
    from size s
    join former.events e on e.position <= s.kept
    union all
    select k / (s.n - s.kept)::numeric, 'b0000000-0000-4000-8000-00000000000b', k,
        case k when 1 then 'AccountOpened' else 'MoneyDeposited' end,
        case k
            when 1 then jsonb_build_object('owner_name', 'Femke Okafor', 'iban', 'NL00BANKHOT', 'currency', 'EUR', 'branch', 'Gent')
            else jsonb_build_object('amount', 1 + k % 50000, 'counterparty', 'Dirk Lindqvist', 'description', 'invoice')
        end,
        s.began + k * interval '1 second'
    from size s, generate_series(1, s.n - s.kept) k
)
insert into events (aggregate_id, sequence_number, event_type, data, created_at)
select aggregate_id, sequence_number, event_type, data, created_at
from merged
order by place, sequence_number;
