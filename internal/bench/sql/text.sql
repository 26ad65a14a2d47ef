-- The same events in the same order, with ids that are text and count up in the order in which their aggregates began.
alter table events alter column aggregate_id type text;

create temporary table ids as
select aggregate_id as old, 'account-' || row_number() over (order by min(position)) as new
from former.events
group by aggregate_id;

insert into events (aggregate_id, sequence_number, event_type, data, created_at)
select i.new, e.sequence_number, e.event_type, e.data, e.created_at
from former.events e
join ids i on i.old = e.aggregate_id
order by e.position;
