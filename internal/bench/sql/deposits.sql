-- $1 deposits on accounts that are open, spread over all of them. The view table says what an account's last event is: it must
-- have all events.
with open as (
    select id, version, row_number() over (order by md5(id::text)) - 1 as place, count(*) over () as all_of_them
    from view_schema.accounts%SUFFIX%
)
insert into events (aggregate_id, sequence_number, event_type, data)
select id, version + round + 1, 'MoneyDeposited',
    jsonb_build_object('amount', 1 + place, 'counterparty', 'Ada Jansen', 'description', 'salary')
from open, generate_series(0, $1 / all_of_them) round
where round * all_of_them + place < $1
order by round, place;
