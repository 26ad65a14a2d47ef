package viewschema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/internal/pg"
)

// lacking tells what the new tables will be without, and what else a cutover does to those who use the live ones, with what to type
// about it. built says whether the new tables are filled. It is no refusal: the SQL files may leave it out on purpose. Of a table that is not there yet it tells nothing.
func (s *Schema) lacking(ctx context.Context, tx pgx.Tx, plan *Plan, built bool) (notes []string, err error) {
	err = qualified(ctx, tx, func() error {
		notes, err = s.listLacking(ctx, tx, plan, built)
		return err
	})
	return notes, err
}

func (s *Schema) listLacking(ctx context.Context, tx pgx.Tx, plan *Plan, built bool) (notes []string, err error) {
	successions, err := s.successions(ctx, tx, plan)
	if err != nil {
		return nil, err
	}
	var leaving []string
	for _, t := range plan.Tables {
		if t.Kind != projector.KindAlter {
			leaving = append(leaving, pg.Table(s.def.Schema, t.Table))
		}
	}
	for _, p := range successions {
		if !p.root() || !p.live || !p.made {
			continue
		}
		found, err := pg.Collect(ctx, tx, pgx.RowTo[string], lackingQuery, pg.Once, p.relation(), p.builtRelation(), p.name, p.built,
			!plan.unindexed, built, leaving)
		if err != nil {
			return nil, fmt.Errorf("comparing %s with the new table: %w", p.name, err)
		}
		notes = append(notes, found...)
	}
	missing, err := s.lackingPartitions(ctx, tx, successions, built)
	if err != nil {
		return nil, err
	}
	notes = append(notes, missing...)
	if len(leaving) == 0 {
		return notes, nil
	}
	others, err := pg.Collect(ctx, tx, pgx.RowTo[string], othersQuery, pg.Once, s.def.Schema, leaving)
	if err != nil {
		return nil, fmt.Errorf("looking for those whom the cutover concerns: %w", err)
	}
	return append(notes, others...), nil
}

// lackingQuery is given the live table and the new one, their names without the schema, whether the new one has its indexes, whether
// it is built, and all tables that are archived. What uses a column that goes is not told: the column is.
const lackingQuery = `
with r as (
	select o.oid as old, n.oid as new, o.oid::regclass as name, o.reltablespace, n.reltablespace as has_tablespace, o.relam, n.relam as has_am,
		o.relpersistence, n.relkind as has_kind, o.relowner, o.relacl, o.relreplident
	from pg_catalog.pg_class o, pg_catalog.pg_class n
	where o.oid = to_regclass($1) and n.oid = to_regclass($2)
), columns as (
	select r.*, o.attnum, o.attname, n.attnum as has, o.attnotnull, n.attnotnull as has_notnull, n.attidentity as has_identity,
		pg_get_expr(d.adbin, d.adrelid) as value,
		exists (select from pg_catalog.pg_attrdef d where d.adrelid = r.new and d.adnum = n.attnum) as has_value
	from r
	join pg_catalog.pg_attribute o on o.attrelid = r.old and o.attnum > 0 and not o.attisdropped
	left join pg_catalog.pg_attribute n on n.attrelid = r.new and n.attname = o.attname and not n.attisdropped
	left join pg_catalog.pg_attrdef d on d.adrelid = r.old and d.adnum = o.attnum
), indexes as (
	select i.indexrelid as id, i.indrelid as of, i.indisprimary, i.indisunique, i.indisreplident, i.indkey::int2[] as keys, c.relname as name,
		c.relname like $3 || '\_%' as named,
		case when c.relname like $3 || '\_%' then $3 || '%SUFFIX%' || substr(c.relname, length($3) + 1) else c.relname || '%SUFFIX%' end as marked,
		array(select pg_get_indexdef(i.indexrelid, k, true) from pg_catalog.generate_series(1, i.indnatts) k) as columns, c.relam,
		pg_get_expr(i.indpred, i.indrelid) as predicate,
		substring(pg_get_indexdef(i.indexrelid) from ' USING .*$') as definition
	from r join pg_catalog.pg_index i on i.indrelid in (r.old, r.new) join pg_catalog.pg_class c on c.oid = i.indexrelid
), lost_indexes as (
	select o.*, exists (select from pg_catalog.pg_constraint k where k.conindid = o.id and k.conrelid = o.of) as backs
	from r join indexes o on o.of = r.old
	where $5 and not exists (
		select
		from indexes n
		where n.of = r.new and (n.columns, n.indisunique, coalesce(n.predicate, ''), n.relam) = (o.columns, o.indisunique, coalesce(o.predicate, ''), o.relam))
), constraints as (
	select k.*, replace(pg_get_constraintdef(k.oid), ' NOT VALID', '') as definition, array(select a.attname
		from pg_catalog.pg_attribute a where a.attrelid = k.conrelid and a.attnum = any (k.conkey) order by a.attname) as columns
	from r join pg_catalog.pg_constraint k on k.conrelid in (r.old, r.new)
)
select pg_catalog.format('column %I of %s goes: the new table does not have it', attname, name)
from columns
where has is null
union all
select pg_catalog.format('column %I of %s has the default %s, and none in the new table; if it is needed, add it to %s.sql', attname, name, value, $3::text)
from columns
where value is not null and has is not null and not has_value and has_identity = ''
union all
select pg_catalog.format('column %I of %s is not null, but may be in the new table; if it must not, add it to %s.sql', attname, name, $3::text)
from columns
where attnotnull and has is not null and not has_notnull
union all
select pg_catalog.format('index %I of %s is not on the new table; if it is needed, add to %s.indexes.sql: create %sindex %s on %s%%SUFFIX%%%s',
		i.name, r.name, $3::text,
		case when i.indisunique then 'unique ' else '' end, case when quote_ident(i.name) = i.name then i.marked else '"' || i.marked || '"' end,
		$3::text, i.definition)
	|| case when $6 then pg_catalog.format('; and as that is built already, type: create %sindex %s%I on %s%s',
		case when i.indisunique then 'unique ' else '' end, case when r.has_kind = 'p' then '' else 'concurrently ' end,
		case when i.named then $4::text || substr(i.name, length($3::text) + 1)
			else i.name || substr($4::text, length($3::text) + 1) end, r.new::regclass, i.definition) else '' end
from r join lost_indexes i on not i.backs and not exists (select from columns c where c.attnum = any (i.keys) and c.has is null)
union all
select pg_catalog.format('constraint %I of %s is not on the new table; if it is needed, add to %s: %s', k.conname, r.name,
	case when k.contype in ('c', 'f') then $3::text || '.sql' else $3::text || '.indexes.sql' end, k.definition)
from r join constraints k on k.conrelid = r.old and k.contype in ('c', 'f', 'p', 'u', 'x')
where ($5 or k.contype in ('c', 'f'))
  and not exists (select from columns c where c.attnum = any (k.conkey) and c.has is null)
  and not exists (
	select
	from constraints n
	where n.conrelid = r.new and n.contype = k.contype and case when k.contype = 'f' then n.columns = k.columns else n.definition = k.definition end)
union all
select pg_catalog.format('foreign key %I of %s stays on the archived table, too, and keeps rows of %s from being deleted until that is cleaned',
	k.conname, r.name, k.confrelid::regclass)
from r join constraints k on k.conrelid = r.old and k.contype = 'f' and k.confrelid <> r.old
where not exists (select from pg_catalog.unnest($7::text[]) t where to_regclass(t) = k.confrelid)
union all
select pg_catalog.format('%s has the replica identity using index %I, which is not on the new table; add the index to %s.indexes.sql', r.name, i.name, $3::text)
from r join lost_indexes i on i.indisreplident
where r.relreplident = 'i'
union all
select pg_catalog.format('%s is in tablespace %I, and the new table in %I; if it should be there, add to %s.sql: tablespace %2$I', name, o.spcname, n.spcname, $3::text)
from r
join pg_catalog.pg_database b on b.datname = current_database()
join pg_catalog.pg_tablespace o on o.oid = coalesce(nullif(r.reltablespace, 0), b.dattablespace)
join pg_catalog.pg_tablespace n on n.oid = coalesce(nullif(r.has_tablespace, 0), b.dattablespace)
where o.oid <> n.oid
union all
select pg_catalog.format('%s has the access method %I, and the new table %I; if it should have it, add to %s.sql: using %2$I', name, o.amname, n.amname, $3::text)
from r join pg_catalog.pg_am o on o.oid = r.relam join pg_catalog.pg_am n on n.oid = r.has_am
where o.oid <> n.oid
union all
select pg_catalog.format('%s is unlogged, and the new table logged, as %s.sql says', name, $3::text)
from r
where relpersistence = 'u'
union all
select distinct pg_catalog.format('%s has granted rights on %s to %s; on the new table they are granted by its owner, and do not go with those of %1$s',
	pg_get_userbyid(a.grantor), name,
	case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_get_userbyid(a.grantee)) end)
from (
	select r.name, r.relowner, x.grantor, x.grantee from r, pg_catalog.aclexplode(r.relacl) x
	union all
	select r.name, r.relowner, x.grantor, x.grantee from r join pg_catalog.pg_attribute t on t.attrelid = r.old and not t.attisdropped, pg_catalog.aclexplode(t.attacl) x
) a
where a.grantor <> a.relowner
order by 1`

// othersQuery tells whom else the cutover concerns. It is given the view schema and the tables that are archived. A publication that names
// no tables publishes those that it does not name.
const othersQuery = `
select pg_catalog.format('publication %I publishes every table of schema %I as soon as it is made: a subscriber that lacks the new tables stops with an error while they are filled; create them there before (plan --sql), or name the live ones in the publication instead',
	p.pubname, $1::text)
from pg_catalog.pg_publication p
where p.puballtables
   or exists (
	select
	from pg_catalog.pg_publication_tables t
	where t.pubname = p.pubname and t.schemaname = $1
	  and not exists (select from pg_catalog.pg_publication_rel r where r.prpubid = p.oid and r.prrelid = to_regclass(pg_catalog.format('%I.%I', t.schemaname, t.tablename))))
union all
select pg_catalog.format('subscribers of publication %I keep their rows of %s, and get from the new table what changes after the cutover: have them copy it anew then',
	p.pubname, to_regclass(t))
from pg_catalog.unnest($2::text[]) t
join pg_catalog.pg_publication_rel r on r.prrelid = to_regclass(t)
join pg_catalog.pg_publication p on p.oid = r.prpubid
union all
select distinct pg_catalog.format('readers and writers of %s, which references %s, wait in the cutover like those of that', k.conrelid::regclass, k.confrelid::regclass)
from pg_catalog.unnest($2::text[]) t
join pg_catalog.pg_constraint k on k.confrelid = to_regclass(t) and k.contype = 'f' and k.conparentid = 0
where not exists (select from pg_catalog.unnest($2::text[]) o where to_regclass(o) = k.conrelid)
order by 1`
