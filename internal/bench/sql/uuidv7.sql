-- The same events in the same order, with ids that begin with the time at which their aggregate began: UUIDs of version 7.
create temporary table ids as
select aggregate_id as old,
    (lpad(to_hex((extract(epoch from min(created_at)) * 1000)::bigint), 12, '0') || '7'
        || substr(replace(aggregate_id::text, '-', ''), 14))::uuid as new
from former.events
group by aggregate_id;

insert into events (aggregate_id, sequence_number, event_type, data, created_at)
select i.new, e.sequence_number, e.event_type, e.data, e.created_at
from former.events e
join ids i on i.old = e.aggregate_id
order by e.position;
