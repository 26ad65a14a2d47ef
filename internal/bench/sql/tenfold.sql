-- The same events ten times, each time of other accounts.
create temporary table ids as
select old, copy, gen_random_uuid() as new
from (select distinct aggregate_id as old from former.events) a, generate_series(1, 10) copy;
analyze ids;

do $$
begin
    for n in 1..10 loop
        insert into events (aggregate_id, sequence_number, event_type, data, created_at)
        select i.new, e.sequence_number, e.event_type,
            case e.event_type
                when 'AccountOpened' then e.data || jsonb_build_object('iban', (e.data ->> 'iban') || '-' || n)
                else e.data
            end,
            e.created_at
        from former.events e
        join ids i on i.old = e.aggregate_id and i.copy = n
        order by e.position;
    end loop;
end $$;
