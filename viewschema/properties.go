package viewschema

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// carryProperties gives the tables that have got these names the properties of those that had them which their SQL files do not set:
// comments, statistics targets, how columns are stored, storage parameters, the index that one is clustered on, the replica identity,
// security labels, and the rights on sequences.
func (s *Schema) carryProperties(ctx context.Context, tx pgx.Tx, successions []succession) error {
	var from, to []string
	for _, p := range successions {
		if p.live {
			from, to = append(from, p.archivedRelation()), append(to, p.relation())
		}
	}
	return runEach(ctx, tx, "carrying properties over", propertiesQuery, from, to)
}

// A column's properties are set on its table only: each partition has its own. Indexes of partitioned tables have no parameters that
// could be changed. Columns are the same by name, indexes by their columns and condition, constraints by their definition.
const propertiesQuery = `
with r as (
	select o.oid as old, n.oid as new, t.new as name, o.reloptions as options, n.reloptions as has, o.reltoastrelid as toast, n.reltoastrelid as new_toast,
		o.relreplident as identity, n.relreplident as has_identity
	from unnest($1::text[], $2::text[]) t (old, new)
	join pg_catalog.pg_class o on o.oid = t.old::regclass
	join pg_catalog.pg_class n on n.oid = t.new::regclass
), both_of as (
	select old as id from r union all select new from r
), columns as (
	select r.name, r.old, r.new, o.attnum as old_number, n.attnum as new_number, o.attname, o.attstattarget as target, n.attstattarget as has_target,
		o.attoptions as options, n.attoptions as has,
		case when n.attstorage = t.typstorage and o.atttypid = n.atttypid then nullif(o.attstorage, n.attstorage) end as storage,
		case when n.attcompression = '' then nullif(o.attcompression, '') end as compression
	from r
	join pg_catalog.pg_attribute o on o.attrelid = r.old and o.attnum > 0 and not o.attisdropped
	join pg_catalog.pg_attribute n on n.attrelid = r.new and n.attname = o.attname and not n.attisdropped
	join pg_catalog.pg_type t on t.oid = n.atttypid
), indexes as (
	select i.indexrelid as id, i.indrelid as of, i.indisreplident, i.indisclustered,
		array(select pg_catalog.pg_get_indexdef(i.indexrelid, k, true) from pg_catalog.generate_series(1, i.indnatts) k) as columns,
		i.indisunique as is_unique, pg_catalog.pg_get_expr(i.indpred, i.indrelid) as predicate
	from both_of join pg_catalog.pg_index i on i.indrelid = both_of.id
), same_indexes as (
	select r.new as of, o.id as old, n.id as new, o.indisreplident, o.indisclustered
	from r
	join indexes o on o.of = r.old
	join indexes n on n.of = r.new and (n.columns, n.is_unique, coalesce(n.predicate, '')) = (o.columns, o.is_unique, coalesce(o.predicate, ''))
), sequences as (
	select d.refobjid as of, a.attname, d.objid as id
	from both_of
	join pg_catalog.pg_depend d on d.refobjid = both_of.id and d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
	join pg_catalog.pg_sequence q on q.seqrelid = d.objid
	join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
)
select pg_catalog.format('comment on table %s is %L', name, pg_catalog.obj_description(old, 'pg_class'))
from r
where pg_catalog.obj_description(old, 'pg_class') is not null and pg_catalog.obj_description(new, 'pg_class') is null
union all
select pg_catalog.format('comment on column %s.%I is %L', name, attname, pg_catalog.col_description(old, old_number))
from columns
where pg_catalog.col_description(old, old_number) is not null and pg_catalog.col_description(new, new_number) is null
union all
select pg_catalog.format('comment on index %s is %L', new::regclass, pg_catalog.obj_description(old, 'pg_class'))
from same_indexes
where pg_catalog.obj_description(old, 'pg_class') is not null and pg_catalog.obj_description(new, 'pg_class') is null
union all
select pg_catalog.format('comment on constraint %I on %s is %L', n.conname, r.name, pg_catalog.obj_description(o.oid, 'pg_constraint'))
from r
join pg_catalog.pg_constraint o on o.conrelid = r.old and pg_catalog.obj_description(o.oid, 'pg_constraint') is not null
cross join lateral (
	select conname
	from pg_catalog.pg_constraint
	where conrelid = r.new and pg_catalog.pg_get_constraintdef(oid) = pg_catalog.pg_get_constraintdef(o.oid) and pg_catalog.obj_description(oid, 'pg_constraint') is null
	offset 0 -- not a join by definitions, which would print those of all tables
) n
union all
select pg_catalog.format('alter table only %s alter column %I set statistics %s', name, attname, target)
from columns
where coalesce(target, -1) >= 0 and coalesce(has_target, -1) < 0
union all
select pg_catalog.format('alter table only %s alter column %I set (%s)', name, attname, option)
from columns, pg_catalog.unnest(options) option
where not exists (select from pg_catalog.unnest(has) h where split_part(h, '=', 1) = split_part(option, '=', 1))
union all
select pg_catalog.format('alter table %s set (%s)', name, option)
from r, pg_catalog.unnest(options) option
where not exists (select from pg_catalog.unnest(has) h where split_part(h, '=', 1) = split_part(option, '=', 1))
union all
select pg_catalog.format('alter table %s set (toast.%s)', r.name, option)
from r
join pg_catalog.pg_class o on o.oid = r.toast
join pg_catalog.pg_class n on n.oid = r.new_toast,
	pg_catalog.unnest(o.reloptions) option
where not exists (select from pg_catalog.unnest(n.reloptions) h where split_part(h, '=', 1) = split_part(option, '=', 1))
union all
select pg_catalog.format('alter index %s set (%s)', i.new::regclass, option)
from same_indexes i join pg_catalog.pg_class o on o.oid = i.old join pg_catalog.pg_class n on n.oid = i.new and n.relkind = 'i', pg_catalog.unnest(o.reloptions) option
where not exists (select from pg_catalog.unnest(n.reloptions) h where split_part(h, '=', 1) = split_part(option, '=', 1))
union all
select pg_catalog.format('alter index %s alter column %s set statistics %s', i.new::regclass, o.attnum, o.attstattarget)
from same_indexes i
join pg_catalog.pg_attribute o on o.attrelid = i.old
join pg_catalog.pg_attribute n on n.attrelid = i.new and n.attnum = o.attnum
where coalesce(o.attstattarget, -1) >= 0 and coalesce(n.attstattarget, -1) < 0
union all
select pg_catalog.format('alter table %s cluster on %I', r.name, c.relname)
from r join same_indexes i on i.of = r.new and i.indisclustered join pg_catalog.pg_class c on c.oid = i.new
where not exists (select from pg_catalog.pg_index h where h.indrelid = r.new and h.indisclustered)
union all
select pg_catalog.format('alter table only %s alter column %I set storage %s', name, attname,
	case storage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end)
from columns
where storage is not null
union all
select pg_catalog.format('alter table only %s alter column %I set compression %s', name, attname, case compression when 'l' then 'lz4' else 'pglz' end)
from columns
where compression is not null
union all
select pg_catalog.format('security label for %I on table %s is %L', o.provider, r.name, o.label)
from r join pg_catalog.pg_seclabel o on o.classoid = 'pg_class'::regclass and o.objoid = r.old and o.objsubid = 0
where not exists (select from pg_catalog.pg_seclabel n where (n.classoid, n.objoid, n.objsubid, n.provider) = (o.classoid, r.new, 0, o.provider))
union all
select pg_catalog.format('security label for %I on column %s.%I is %L', o.provider, c.name, c.attname, o.label)
from columns c join pg_catalog.pg_seclabel o on o.classoid = 'pg_class'::regclass and o.objoid = c.old and o.objsubid = c.old_number
where not exists (select from pg_catalog.pg_seclabel n where (n.classoid, n.objoid, n.objsubid, n.provider) = (o.classoid, c.new, c.new_number, o.provider))
union all
select pg_catalog.format('alter table %s replica identity %s', name, case identity when 'f' then 'full' else 'nothing' end)
from r
where identity in ('f', 'n') and has_identity = 'd'
union all
select pg_catalog.format('alter table %s replica identity using index %I', r.name, c.relname)
from r join same_indexes i on i.of = r.new and i.indisreplident join pg_catalog.pg_class c on c.oid = i.new
where r.identity = 'i' and r.has_identity = 'd'
union all
select pg_catalog.format('comment on sequence %s is %L', n.id::regclass, pg_catalog.obj_description(o.id, 'pg_class'))
from r join sequences o on o.of = r.old join sequences n on n.of = r.new and n.attname = o.attname
where pg_catalog.obj_description(o.id, 'pg_class') is not null and pg_catalog.obj_description(n.id, 'pg_class') is null
union all
select pg_catalog.format('grant %s on sequence %s to %s%s', a.privilege_type, n.id::regclass,
	case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end,
	case when a.is_grantable then ' with grant option' else '' end)
from r
join sequences o on o.of = r.old
join sequences n on n.of = r.new and n.attname = o.attname
join pg_catalog.pg_class c on c.oid = o.id, pg_catalog.aclexplode(c.relacl) a
where a.grantee <> c.relowner`
