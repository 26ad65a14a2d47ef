package viewschema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// checkCutover refuses a cutover that would leave something behind on the archived table: what depends on a table is bound
// to the table, not to its name, and stays with it when it is renamed. It returns what can be made anew for the new table.
func (s *Schema) checkCutover(ctx context.Context, tx pgx.Tx, plan *Plan) (all []belonging, err error) {
	var refused error
	err = qualified(ctx, tx, func() (err error) {
		all, refused, err = s.examineCutover(ctx, tx, plan)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, refused
}

// examineCutover is checkCutover with the search path of qualified, and a refusal apart from what went wrong.
func (s *Schema) examineCutover(ctx context.Context, tx pgx.Tx, plan *Plan) (all []belonging, refused, err error) {
	successions, err := s.successions(ctx, tx, plan)
	if err != nil {
		return nil, nil, err
	}
	if all, err = listBelongings(ctx, tx, plan, successions); err != nil {
		return nil, nil, err
	}
	r := &refusal{}
	for _, b := range all {
		if b.Problem != "" {
			r.add("%s would stay behind with the archived table: %s; drop it before the cutover and create it again after", b.What, b.Problem)
		}
	}
	var built []string
	for _, t := range plan.replayed() {
		built = append(built, t.Built)
	}
	if err := addTaken(ctx, tx, successions, r); err != nil {
		return nil, nil, err
	}
	err = errors.Join(s.ensureLogged(ctx, tx), s.refuseUnlogged(ctx, tx, r, built...), addDependents(ctx, tx, successions, r))
	return all, r.orNil(), err
}

func addDependents(ctx context.Context, tx pgx.Tx, successions []succession, r *refusal) error {
	var live, archived, tables []string
	var replayed []bool
	for _, p := range successions {
		if p.live && p.archived != "" {
			live, archived, tables = append(live, p.relation()), append(archived, p.archived), append(tables, p.of.Table)
			replayed = append(replayed, p.given())
		}
	}
	if len(live) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, dependents, pg.Once, live, archived, replayed, tables)
	if err != nil {
		return fmt.Errorf("looking for what depends on the live tables: %w", err)
	}
	var what, table, remedy string
	_, err = pgx.ForEachRow(rows, []any{&what, &table, &remedy}, func() error {
		if remedy != "" {
			remedy = " (" + remedy + ")"
		}
		r.add("%s would stay behind with the archived table %s; drop it before the cutover%s and create it again after", what, table, remedy)
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for what depends on the live tables: %w", err)
	}
	return nil
}

// dependents is given tables and their partitions, what they will be called, for each whether what can be made anew is left out, and the
// view table whose family it is of. It yields whatever PostgreSQL knows to depend on a table, its row type or its sequences, but for parts
// of the table and its family, so that nothing is left out for not having been thought of; and what the table is a part of itself. A
// function whose body is kept as text finds the new table by its name, and is not among them.
const dependents = `
with live as (
	select c.oid, c.oid::regclass as name, c.reltype, t.archived, t.replayed, t.family
	from unnest($1::text[], $2::text[], $3::bool[], $4::text[]) t (live, archived, replayed, family) join pg_catalog.pg_class c on c.oid = to_regclass(t.live)
), parts as (
	select oid as live, 'pg_class'::regclass as class, oid as id from live
	union all
	select l.oid, 'pg_type'::regclass, t.oid from live l join pg_catalog.pg_type t on t.oid = l.reltype or t.typelem = l.reltype
	union all
	select l.oid, 'pg_class'::regclass, s.oid
	from live l
	join pg_catalog.pg_depend d on d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = l.oid and d.deptype in ('a', 'i')
	join pg_catalog.pg_class s on s.oid = d.objid and s.relkind = 'S'
), found as (
	select distinct l.name, l.archived, l.replayed, l.family, d.classid, d.objid, d.objsubid, c.relkind, c.relispartition, w.rulename, w.ev_class, v.relkind as view,
		coalesce(k.conrelid, p.polrelid, t.tgrelid, a.adrelid, nullif(w.ev_class, 0)) as of, k.contype, k.conparentid,
		t.tgisinternal or t.tgparentid <> 0 as made, pr.prpubid
	from live l
	join parts o on o.live = l.oid
	join pg_catalog.pg_depend d on d.refclassid = o.class and d.refobjid = o.id and d.deptype in ('n', 'a')
	left join pg_catalog.pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid
	left join pg_catalog.pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
	left join pg_catalog.pg_class v on v.oid = w.ev_class
	left join pg_catalog.pg_constraint k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid
	left join pg_catalog.pg_policy p on d.classid = 'pg_policy'::regclass and p.oid = d.objid
	left join pg_catalog.pg_trigger t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
	left join pg_catalog.pg_attrdef a on d.classid = 'pg_attrdef'::regclass and a.oid = d.objid
	left join pg_catalog.pg_publication_rel pr on d.classid = 'pg_publication_rel'::regclass and pr.oid = d.objid
)
select case
		when f.view = 'm' then pg_catalog.format('materialized view %s', f.ev_class::regclass)
		when f.rulename = '_RETURN' then pg_catalog.format('view %s', f.ev_class::regclass)
		when f.contype = 'f' then pg_catalog.format('foreign key %s', i.identity)
		when f.prpubid is not null then pg_catalog.format('the place of %s', i.identity)
		else i.type || ' ' || i.identity
	end as what,
	f.archived,
	case
		when f.view = 'm' then pg_catalog.format('drop materialized view %s', f.ev_class::regclass)
		when f.rulename = '_RETURN' then pg_catalog.format('drop view %s', f.ev_class::regclass)
		when f.relispartition then pg_catalog.format('alter table %s detach partition %s', f.name, f.objid::regclass)
		when f.relkind in ('r', 'p', 'f') and f.objsubid = 0 then pg_catalog.format('alter table %s no inherit %s', f.objid::regclass, f.name)
		when f.contype is not null then pg_catalog.format('alter table %s drop constraint %I', f.of::regclass, (select conname from pg_catalog.pg_constraint where oid = f.objid))
		when f.prpubid is not null then pg_catalog.format('alter publication %I drop table %s', (select pubname from pg_catalog.pg_publication where oid = f.prpubid), f.name)
		when f.rulename is not null or f.classid in ('pg_policy'::regclass, 'pg_proc'::regclass, 'pg_trigger'::regclass) then 'drop ' || i.type || ' ' || i.identity
		else ''
	end
from found f
cross join lateral (select exists (select from live l where l.oid = f.of and l.family = f.family) as ours) ours
cross join pg_catalog.pg_identify_object(f.classid, f.objid, f.objsubid) i
where case f.classid
		when 'pg_class'::regclass then f.relkind not in ('i', 'I', 'S', 't') and not (f.replayed and f.relkind = 'v')
			and not exists (select from live l where l.oid = f.objid and l.family = f.family)
		when 'pg_rewrite'::regclass then not (f.replayed and f.view = 'v' and f.rulename = '_RETURN')
		when 'pg_constraint'::regclass then f.conparentid = 0 and not ours and not (f.replayed and f.contype = 'f')
		when 'pg_trigger'::regclass then not f.made and not (f.replayed and ours)
		when 'pg_policy'::regclass then not ours
		when 'pg_attrdef'::regclass then not ours
		when 'pg_publication_rel'::regclass then not f.replayed
		when 'pg_statistic_ext'::regclass then false
		else true
	end
union
select pg_catalog.format('row security of %s', l.name), l.archived, pg_catalog.format('alter table %s disable row level security, no force row level security', l.name)
from live l join pg_catalog.pg_class c on c.oid = l.oid
where (c.relrowsecurity or c.relforcerowsecurity) and not l.replayed
union
select pg_catalog.format('the place of %s in table %s', l.name, h.inhparent::regclass), l.archived,
	case when c.relispartition then pg_catalog.format('alter table %s detach partition %s', h.inhparent::regclass, l.name)
		else pg_catalog.format('alter table %s no inherit %s', l.name, h.inhparent::regclass) end
from live l join pg_catalog.pg_class c on c.oid = l.oid join pg_catalog.pg_inherits h on h.inhrelid = l.oid
where not exists (select from live o where o.oid = h.inhparent and o.family = l.family)
union
select pg_catalog.format('the place of %s in extension %I', l.name, e.extname), l.archived, pg_catalog.format('alter extension %I drop table %s', e.extname, l.name)
from live l
join pg_catalog.pg_depend d on d.classid = 'pg_class'::regclass and d.objid = l.oid and d.deptype = 'e'
join pg_catalog.pg_extension e on e.oid = d.refobjid
union
select pg_catalog.format('the place of %s in subscription %I', l.name, s.subname), l.archived, ''
from live l join pg_catalog.pg_subscription_rel r on r.srrelid = l.oid join pg_catalog.pg_subscription s on s.oid = r.srsubid
order by 1`
