-- One row per aggregate: how many events it has, from when to when.
--
-- The relation after "from" has all events of some aggregates, with the columns position, aggregate_id, aggregate_type,
-- sequence_number, event_type, data (jsonb), metadata (jsonb), created_at, schema_version and tenant. The columns of the
-- result have the names of the table's.
select
    e.aggregate_id,
    -- max(e.data ->> 'owner') filter (where e.event_type = '{{.Event}}') as owner,
    count(*) as events,
    min(e.created_at) as first_at,
    max(e.created_at) as last_at
from %EVENTS% e
group by e.aggregate_id
