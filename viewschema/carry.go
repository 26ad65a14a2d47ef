package viewschema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// belonging is something that hangs on a live table and would stay with it when it is archived: the cutover makes it anew for
// the table that takes its place.
type belonging struct {
	What       string
	Statements []string // name the table as it is called before and after the cutover, and the archived one as after
	Problem    string   // why it cannot be made anew; empty: it can
	Lock       string   // a statement that changes nothing and locks what is made anew by its own name; empty: its table's lock does
}

// belongings lists what hangs on the live tables that the plan replaces. Afterwards q has the search path that it had.
//
// Definitions are PostgreSQL's own, which are printed with the schemas of all names that are not on the search path: hence the
// empty one. They are taken before the tables are renamed, and so name the new table when they are run after that. What the
// table's SQL files have made already, by the same name, is left out. Triggers and policies leave the archived table: should it be
// caught up, to take the cutover back, no trigger runs a second time for an event. Row security stays on there: without a policy, it
// shows nothing to anybody but the owner. A rollback brings it back only if the table has it that is live by then.
func (s *Schema) belongings(ctx context.Context, tx pgx.Tx, plan *Plan) (all []belonging, err error) {
	var path string
	if err := tx.QueryRow(ctx, "select current_setting('search_path')").Scan(&path); err != nil {
		return nil, fmt.Errorf("reading the search path: %w", err)
	}
	if err := searchPath(ctx, tx, "pg_catalog"); err != nil {
		return nil, err
	}
	for _, t := range plan.replayed() {
		rows, err := tx.Query(ctx, belongingsQuery, pg.Table(s.def.Schema, t.Table), pg.Table(s.def.Schema, t.Built), pg.Table(s.def.Schema, t.Archived), plan.back)
		if err != nil {
			return nil, fmt.Errorf("listing what belongs to %s: %w", t.Table, err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[belonging])
		if err != nil {
			return nil, fmt.Errorf("listing what belongs to %s: %w", t.Table, err)
		}
		for _, b := range found { // a view can hang on several tables
			if !slices.ContainsFunc(all, func(o belonging) bool { return o.What == b.What && o.Problem == b.Problem }) {
				all = append(all, b)
			}
		}
	}
	return all, searchPath(ctx, tx, path)
}

func searchPath(ctx context.Context, tx pgx.Tx, path string) error {
	if _, err := tx.Exec(ctx, "select pg_catalog.set_config('search_path', $1, true)", path); err != nil {
		return fmt.Errorf("setting the search path: %w", err)
	}
	return nil
}

// belongingsQuery is given the live table, and the table that is built, which is not there before the migration. To own a view
// again is the only way to lock it without the tables that it selects from: "lock table" locks these, too.
const belongingsQuery = `
with live as (
	select c.oid, c.oid::regclass::text as name, to_regclass($2)::oid as built, c.relrowsecurity, c.relforcerowsecurity
	from pg_class c
	where c.oid = to_regclass($1)
), hanging as (
	select 1 as rank, 'pg_policy'::regclass::oid as class, p.oid as id, format('policy %I of %s', p.polname, l.name) as what,
		array[format('create policy %I on %s as %s for %s to %s', p.polname, l.name,
			case when p.polpermissive then 'permissive' else 'restrictive' end,
			case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
			(select string_agg(case r when 0 then 'public' else quote_ident(pg_get_userbyid(r)) end, ', ') from unnest(p.polroles) r))
			|| coalesce(' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
			|| coalesce(' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')]
			|| case when obj_description(p.oid, 'pg_policy') is not null
				then array[format('comment on policy %I on %s is %L', p.polname, l.name, obj_description(p.oid, 'pg_policy'))] else '{}' end
			|| array[format('drop policy %I on %s', p.polname, $3::text)] as statements,
		null::text as problem, '' as lock, l.oid as live, l.built
	from live l join pg_policy p on p.polrelid = l.oid
	where not exists (select from pg_policy o where o.polrelid = l.built and o.polname = p.polname)
	union all
	select 2, 0, 0, format('row security of %s', l.name),
		case when l.relrowsecurity then array[format('alter table %s enable row level security', l.name)] else '{}' end
			|| case when l.relforcerowsecurity then array[format('alter table %s force row level security', l.name)] else '{}' end
			|| case when not l.relrowsecurity then array[format('alter table %s disable row level security', l.name)] else '{}' end
			|| array[format('alter table %s no force row level security', $3::text)],
		null, '', l.oid, l.built
	from live l
	where l.relrowsecurity or l.relforcerowsecurity or $4 and (select c.relrowsecurity from pg_class c where c.oid = l.built)
	union all
	select 3, 'pg_statistic_ext'::regclass, e.oid, format('statistics %I.%I', n.nspname, e.stxname), array[pg_get_statisticsobjdef(e.oid)]
			|| case when obj_description(e.oid, 'pg_statistic_ext') is not null
				then array[format('comment on statistics %I.%I is %L', n.nspname, e.stxname, obj_description(e.oid, 'pg_statistic_ext'))] else '{}' end,
		null, '', l.oid, l.built
	from live l join pg_statistic_ext e on e.stxrelid = l.oid join pg_namespace n on n.oid = e.stxnamespace
	where not exists (select from pg_statistic_ext o where o.stxrelid = l.built and pg_get_statisticsobjdef_columns(o.oid) = pg_get_statisticsobjdef_columns(e.oid))
	union all
	select 4, 'pg_trigger'::regclass, t.oid, format('trigger %I of %s', t.tgname, l.name), array[pg_get_triggerdef(t.oid)]
			|| case t.tgenabled when 'O' then '{}' else array[format('alter table %s %s trigger %I', l.name,
				case t.tgenabled when 'D' then 'disable' when 'R' then 'enable replica' else 'enable always' end, t.tgname)] end
			|| case when obj_description(t.oid, 'pg_trigger') is not null
				then array[format('comment on trigger %I on %s is %L', t.tgname, l.name, obj_description(t.oid, 'pg_trigger'))] else '{}' end
			|| array[format('drop trigger %I on %s', t.tgname, $3::text)],
		case when not has_function_privilege(t.tgfoid, 'execute') then format('our role may not execute %s', t.tgfoid::regprocedure) end, '', l.oid, l.built
	from live l join pg_trigger t on t.tgrelid = l.oid
	where not t.tgisinternal
	  and not exists (select from pg_trigger o where o.tgrelid = l.built and o.tgname = t.tgname)
	union all
	select distinct 5, 'pg_rewrite'::regclass::oid, w.oid, format('view %s', v.oid::regclass),
		array[format('create or replace view %s%s as %s', v.oid::regclass, case when v.reloptions is not null then format(' with (%s)', array_to_string(v.reloptions, ', ')) end,
			pg_get_viewdef(v.oid))],
		case when not pg_has_role(v.relowner, 'usage') then format('it belongs to %I, and our role is not a member of that', pg_get_userbyid(v.relowner))
			when exists (select from pg_attribute a join pg_class c on c.reltype = a.atttypid where a.attrelid = v.oid and c.oid = l.oid)
				then 'it has a column that is a row of the table'
			when not has_schema_privilege(v.relnamespace, 'create') then format('our role may not create in schema %s', v.relnamespace::regnamespace) end,
		format('alter view %s owner to %I', v.oid::regclass, pg_get_userbyid(v.relowner)), l.oid, l.built
	from live l
	join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = l.oid
	join pg_rewrite w on w.oid = d.objid
	join pg_class v on v.oid = w.ev_class and v.relkind = 'v'
)
select h.what, h.statements, coalesce(h.problem, c.problem, ''), h.lock
from hanging h
left join lateral (
	select case
			when n.attname is null then format('it uses column %I, which the new table does not have', o.attname)
			else format('it uses column %I, which was %s and is %s in the new table', o.attname, format_type(o.atttypid, o.atttypmod), format_type(n.atttypid, n.atttypmod))
		end as problem
	from pg_depend d
	join pg_attribute o on o.attrelid = d.refobjid and o.attnum = d.refobjsubid
	left join pg_attribute n on n.attrelid = h.built and n.attname = o.attname and not n.attisdropped
	where h.built is not null
	  and d.classid = h.class and d.objid = h.id and d.refclassid = 'pg_class'::regclass and d.refobjid = h.live and d.refobjsubid > 0
	  and (n.attname is null or h.rank = 5 and (n.atttypid, n.atttypmod) <> (o.atttypid, o.atttypmod))
	order by o.attnum
	limit 1
) c on true
order by h.rank, h.what`

// changeTables does what the plan says, and makes anew what hung on the tables that are replaced.
func (s *Schema) changeTables(ctx context.Context, tx pgx.Tx, m *migration, plan *Plan, all []belonging) error {
	for _, t := range plan.Tables {
		if err := s.change(ctx, tx, m, t); err != nil {
			return fmt.Errorf("table %s: %w", t.Table, err)
		}
	}
	return makeAnew(ctx, tx, all)
}

// makeAnew makes for the new tables what hung on those that had their names.
func makeAnew(ctx context.Context, tx pgx.Tx, all []belonging) error {
	for _, b := range all {
		for _, sql := range b.Statements {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("making %s anew: %w", b.What, err)
			}
		}
	}
	return nil
}

// carryProperties gives a table the properties of another one that its SQL files do not set: comments, statistics targets,
// storage parameters, the replica identity, and the rights on its sequences.
func (s *Schema) carryProperties(ctx context.Context, tx pgx.Tx, from, to string) error {
	rows, err := tx.Query(ctx, propertiesQuery, pg.Table(s.def.Schema, from), pg.Table(s.def.Schema, to))
	if err != nil {
		return fmt.Errorf("reading the properties of %s: %w", from, err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("reading the properties of %s: %w", from, err)
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("carrying over: %s: %w", sql, err)
		}
	}
	return nil
}

// Columns are the same by name, indexes by their columns and condition, constraints by their definition.
const propertiesQuery = `
with r as (
	select o.oid as old, n.oid as new, $2::text as name, o.reloptions as options, n.reloptions as has, o.reltoastrelid as toast, n.reltoastrelid as new_toast,
		o.relreplident as identity, n.relreplident as has_identity
	from pg_catalog.pg_class o, pg_catalog.pg_class n
	where o.oid = $1::text::regclass and n.oid = $2::text::regclass
), columns as (
	select r.name, r.old, r.new, o.attnum as old_number, n.attnum as new_number, o.attname, o.attstattarget as target, n.attstattarget as has_target,
		o.attoptions as options, n.attoptions as has
	from r
	join pg_catalog.pg_attribute o on o.attrelid = r.old and o.attnum > 0 and not o.attisdropped
	join pg_catalog.pg_attribute n on n.attrelid = r.new and n.attname = o.attname and not n.attisdropped
), indexes as (
	select i.indexrelid as id, i.indrelid as of, i.indisreplident,
		array(select pg_catalog.pg_get_indexdef(i.indexrelid, k, true) from pg_catalog.generate_series(1, i.indnatts) k) as columns,
		i.indisunique as is_unique, pg_catalog.pg_get_expr(i.indpred, i.indrelid) as predicate
	from r join pg_catalog.pg_index i on i.indrelid in (r.old, r.new)
), same_indexes as (
	select o.id as old, n.id as new, o.indisreplident
	from r
	join indexes o on o.of = r.old
	join indexes n on n.of = r.new and (n.columns, n.is_unique, coalesce(n.predicate, '')) = (o.columns, o.is_unique, coalesce(o.predicate, ''))
), sequences as (
	select d.refobjid as of, a.attname, d.objid as id
	from r
	join pg_catalog.pg_depend d on d.refobjid in (r.old, r.new) and d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
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
join pg_catalog.pg_constraint o on o.conrelid = r.old
join pg_catalog.pg_constraint n on n.conrelid = r.new and pg_catalog.pg_get_constraintdef(n.oid) = pg_catalog.pg_get_constraintdef(o.oid)
where pg_catalog.obj_description(o.oid, 'pg_constraint') is not null and pg_catalog.obj_description(n.oid, 'pg_constraint') is null
union all
select pg_catalog.format('alter table %s alter column %I set statistics %s', name, attname, target)
from columns
where coalesce(target, -1) >= 0 and coalesce(has_target, -1) < 0
union all
select pg_catalog.format('alter table %s alter column %I set (%s)', name, attname, option)
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
select pg_catalog.format('alter table %s replica identity %s', name, case identity when 'f' then 'full' else 'nothing' end)
from r
where identity in ('f', 'n') and has_identity = 'd'
union all
select pg_catalog.format('alter table %s replica identity using index %I', r.name, c.relname)
from r join same_indexes i on i.indisreplident join pg_catalog.pg_class c on c.oid = i.new
where r.identity = 'i' and r.has_identity = 'd'
union all
select pg_catalog.format('grant %s on sequence %s to %s%s', a.privilege_type, n.id::regclass,
	case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end,
	case when a.is_grantable then ' with grant option' else '' end)
from r
join sequences o on o.of = r.old
join sequences n on n.of = r.new and n.attname = o.attname
join pg_catalog.pg_class c on c.oid = o.id, pg_catalog.aclexplode(c.relacl) a
where a.grantee <> c.relowner`
