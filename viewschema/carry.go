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
	After      string   // a statement that completes it, which nobody has to wait for: it runs once the cutover has committed; empty: none
}

// belongings lists what hangs on the live tables that the plan replaces.
//
// Definitions are PostgreSQL's own. They are taken before the tables are renamed, and so name the new table when they are run after
// that. What the table's SQL files have made already, by the same name, is left out. Triggers and policies leave the archived table:
// should it be caught up, to take the cutover back, no trigger runs a second time for an event. Row security stays on there: without a
// policy, it shows nothing to anybody but the owner. A rollback brings it back only if the table has it that is live by then.
func (s *Schema) belongings(ctx context.Context, tx pgx.Tx, plan *Plan) (all []belonging, err error) {
	err = qualified(ctx, tx, func() error {
		successions, err := s.successions(ctx, tx, plan)
		if err == nil {
			all, err = listBelongings(ctx, tx, plan, successions)
		}
		return err
	})
	return all, err
}

// listBelongings wants names and definitions qualified.
func listBelongings(ctx context.Context, tx pgx.Tx, plan *Plan, successions []succession) (all []belonging, err error) {
	var live, built, archived, leaving []string
	for _, p := range successions {
		if !p.live {
			continue
		}
		leaving = append(leaving, p.relation())
		if p.given() {
			live, built, archived = append(live, p.relation()), append(built, p.builtRelation()), append(archived, p.archivedRelation())
		}
	}
	if len(leaving) == 0 {
		return nil, nil
	}
	found, err := pg.Collect(ctx, tx, pgx.RowToStructByPos[belonging], belongingsQuery, pg.Once, live, built, archived, plan.back, leaving, !plan.unindexed)
	if err != nil {
		return nil, fmt.Errorf("listing what belongs to the live tables: %w", err)
	}
	for _, b := range found { // a view can hang on several tables
		if !slices.ContainsFunc(all, func(o belonging) bool { return o.What == b.What && o.Problem == b.Problem }) {
			all = append(all, b)
		}
	}
	return all, nil
}

// qualified runs fn with a search path on which no schema of a user is: so PostgreSQL prints names and definitions with the schemas of
// all names. Afterwards tx has the search path that it had.
func qualified(ctx context.Context, tx pgx.Tx, fn func() error) error {
	var path, now string
	// PostgreSQL computes a select list in its order.
	err := tx.QueryRow(ctx, "select current_setting('search_path'), "+qualifying, pg.Once).Scan(&path, &now)
	if err != nil {
		return fmt.Errorf("setting the search path: %w", err)
	}
	if err := fn(); err != nil {
		return err
	}
	return searchPath(ctx, tx, path)
}

// qualifying sets that search path, in SQL.
const qualifying = "pg_catalog.set_config('search_path', 'pg_catalog', true)"

func searchPath(ctx context.Context, tx pgx.Tx, path string) error {
	if _, err := tx.Exec(ctx, "select pg_catalog.set_config('search_path', $1, true)", pg.Once, path); err != nil {
		return fmt.Errorf("setting the search path: %w", err)
	}
	return nil
}

// belongingsQuery is given the live tables that are replaced, those that are built, which may not be there, their archived names, whether
// this is a rollback, all live tables that are archived, and whether the new ones have their indexes. To own a view again is the only
// way to lock it without the tables that it selects from: "lock table" locks these, too. A foreign key that is not valid holds for every
// row that is written from then on; to validate it later reads its table and holds off neither readers nor writers; to drop the former
// one takes the strongest lock on its table. The columns and the filter of a publication cannot be asked of the catalog of PostgreSQL 14,
// which has neither: hence to_jsonb.
const belongingsQuery = `
with live as (
	select c.oid, c.oid::regclass::text as name, to_regclass(nullif(t.built, ''))::oid as built, t.archived,
		c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.relname, c.relnamespace
	from unnest($1::text[], $2::text[], $3::text[]) t (live, built, archived) join pg_class c on c.oid = to_regclass(t.live)
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
			|| array[format('drop policy %I on %s', p.polname, l.archived)] as statements,
		null::text as problem, '' as lock, '' as after, l.oid as live, l.built
	from live l join pg_policy p on p.polrelid = l.oid
	where not exists (select from pg_policy o where o.polrelid = l.built and o.polname = p.polname)
	union all
	select 2, 0, 0, format('row security of %s', l.name),
		case when l.relrowsecurity then array[format('alter table %s enable row level security', l.name)] else '{}' end
			|| case when l.relforcerowsecurity then array[format('alter table %s force row level security', l.name)] else '{}' end
			|| case when not l.relrowsecurity then array[format('alter table %s disable row level security', l.name)] else '{}' end
			|| array[format('alter table %s no force row level security', l.archived)],
		null, '', '', l.oid, l.built
	from live l
	where l.relrowsecurity or l.relforcerowsecurity or $4 and (select c.relrowsecurity from pg_class c where c.oid = l.built)
	union all
	select 3, 'pg_statistic_ext'::regclass, e.oid, format('statistics %I.%I', n.nspname, e.stxname), array[pg_get_statisticsobjdef(e.oid)]
			|| case when obj_description(e.oid, 'pg_statistic_ext') is not null
				then array[format('comment on statistics %I.%I is %L', n.nspname, e.stxname, obj_description(e.oid, 'pg_statistic_ext'))] else '{}' end
			|| case when coalesce(e.stxstattarget, -1) >= 0
				then array[format('alter statistics %I.%I set statistics %s', n.nspname, e.stxname, e.stxstattarget)] else '{}' end
			|| array[format('alter statistics %I.%I owner to %I', n.nspname, e.stxname, pg_get_userbyid(e.stxowner))],
		case when not pg_has_role(e.stxowner, 'usage') then format('they belong to %I, and our role is not a member of that', pg_get_userbyid(e.stxowner))
			when not has_schema_privilege(n.oid, 'create') then format('our role may not create in schema %s', n.oid::regnamespace) end,
		'', format('analyze %s', l.name), l.oid, l.built
	from live l join pg_statistic_ext e on e.stxrelid = l.oid join pg_namespace n on n.oid = e.stxnamespace
	where not exists (select from pg_statistic_ext o where o.stxrelid = l.built and pg_get_statisticsobjdef_columns(o.oid) = pg_get_statisticsobjdef_columns(e.oid))
	union all
	select 4, 'pg_trigger'::regclass, t.oid, format('trigger %I of %s', t.tgname, l.name), array[pg_get_triggerdef(t.oid)]
			|| case t.tgenabled when 'O' then '{}' else array[format('alter table %s %s trigger %I', l.name,
				case t.tgenabled when 'D' then 'disable' when 'R' then 'enable replica' else 'enable always' end, t.tgname)] end
			|| case when obj_description(t.oid, 'pg_trigger') is not null
				then array[format('comment on trigger %I on %s is %L', t.tgname, l.name, obj_description(t.oid, 'pg_trigger'))] else '{}' end
			|| array[format('drop trigger %I on %s', t.tgname, l.archived)],
		case when not has_function_privilege(t.tgfoid, 'execute') then format('our role may not execute %s', t.tgfoid::regprocedure) end, '', '', l.oid, l.built
	from live l join pg_trigger t on t.tgrelid = l.oid
	where not t.tgisinternal and t.tgparentid = 0
	  and not exists (select from pg_trigger o where o.tgrelid = l.built and o.tgname = t.tgname)
	union all
	select distinct 5, 'pg_rewrite'::regclass::oid, w.oid, format('view %s', v.oid::regclass),
		array[format('create or replace view %s%s as %s', v.oid::regclass,
			case when v.reloptions is not null then format(' with (%s)', array_to_string(v.reloptions, ', ')) end,
			pg_get_viewdef(v.oid))],
		case when not pg_has_role(v.relowner, 'usage') then format('it belongs to %I, and our role is not a member of that', pg_get_userbyid(v.relowner))
			when exists (select from pg_attribute a join pg_class c on c.reltype = a.atttypid where a.attrelid = v.oid and c.oid = l.oid)
				then 'it has a column that is a row of the table'
			when not has_schema_privilege(v.relnamespace, 'create') then format('our role may not create in schema %s', v.relnamespace::regnamespace) end,
		format('alter view %s owner to %I', v.oid::regclass, pg_get_userbyid(v.relowner)), '', l.oid, l.built
	from live l
	join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = l.oid
	join pg_rewrite w on w.oid = d.objid and w.rulename = '_RETURN' -- the others are an insert, an update or a delete
	join pg_class v on v.oid = w.ev_class and v.relkind = 'v'
	union all
	select 6, 'pg_publication_rel'::regclass, pr.oid, format('the place of %s in publication %I', l.name, p.pubname),
		array[format('alter publication %I drop table %s', p.pubname, l.archived),
			format('alter publication %I add table %s', p.pubname, l.name)
			|| coalesce((select format(' (%s)', string_agg(quote_ident(a.attname), ', ' order by k.number))
				from jsonb_array_elements_text(nullif(to_jsonb(pr) -> 'prattrs', 'null')) with ordinality k (attnum, number)
				join pg_attribute a on a.attrelid = l.oid and a.attnum = k.attnum::int
				having count(*) > 0), '')
			|| coalesce((select format(' where (%s)', to_jsonb(t) ->> 'rowfilter')
				from pg_publication_tables t
				where t.pubname = p.pubname and t.schemaname = l.relnamespace::regnamespace::name and t.tablename = l.relname and to_jsonb(t) ->> 'rowfilter' is not null), '')],
		case when not pg_has_role(p.pubowner, 'usage') then format('the publication belongs to %I, and our role is not a member of that', pg_get_userbyid(p.pubowner))
			when nullif(to_jsonb(pr) -> 'prqual', 'null') is not null and not exists (
				select
				from pg_publication_tables t
				where t.pubname = p.pubname and t.schemaname = l.relnamespace::regnamespace::name and t.tablename = l.relname and to_jsonb(t) ->> 'rowfilter' is not null)
				then 'it has a row filter that cannot be read, since the publication also has the whole schema'
			when $6 and (p.pubupdate or p.pubdelete) and l.relreplident = 'd'
				and not exists (select from pg_index i where i.indrelid = l.built and i.indisprimary)
				and exists (select from pg_class c where c.oid = l.built and c.relreplident = 'd')
				then 'it publishes updates or deletes, for which the new table has no primary key' end,
		'', '', l.oid, l.built
	from live l join pg_publication_rel pr on pr.prrelid = l.oid join pg_publication p on p.oid = pr.prpubid
	where not exists (select from pg_publication_rel o where o.prpubid = pr.prpubid and o.prrelid = l.built)
	union all
	select 7, 'pg_constraint'::regclass, k.oid, format('foreign key %I of %s', k.conname, r.oid::regclass),
		array[format('alter table %s drop constraint %I', r.oid::regclass, k.conname),
			format('alter table %s add constraint %I %s', r.oid::regclass, k.conname, pg_get_constraintdef(k.oid)) || case when k.convalidated then ' not valid' else '' end]
			|| case when obj_description(k.oid, 'pg_constraint') is not null
				then array[format('comment on constraint %I on %s is %L', k.conname, r.oid::regclass, obj_description(k.oid, 'pg_constraint'))] else '{}' end,
		case when not pg_has_role(r.relowner, 'usage') then format('that table belongs to %I, and our role is not a member of that', pg_get_userbyid(r.relowner))
			when r.relkind <> 'r' then 'that table is partitioned, for which it cannot be made without reading all of it'
			when exists (select from unnest($2::text[]) t where to_regclass(t) = r.oid)
				then 'it is made by the SQL file of a table that is built, which names this one without %SUFFIX%'
			when $6 and l.built is not null and not exists (
				select
				from pg_index i
				where i.indrelid = l.built and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
				  and (select array_agg(a.attname order by a.attname) from pg_attribute a where a.attrelid = l.built and a.attnum = any (i.indkey[0:i.indnkeyatts - 1]))
					= (select array_agg(a.attname order by a.attname) from pg_attribute a where a.attrelid = l.oid and a.attnum = any (k.confkey)))
				then format('the new table has no unique index on (%s)',
					(select string_agg(quote_ident(a.attname), ', ' order by array_position(k.confkey, a.attnum)) from pg_attribute a where a.attrelid = l.oid and a.attnum = any (k.confkey))) end,
		format('lock table only %s in access exclusive mode', r.oid::regclass),
		case when k.convalidated then format('alter table %s validate constraint %I', r.oid::regclass, k.conname) else '' end, l.oid, l.built
	from live l join pg_constraint k on k.confrelid = l.oid and k.contype = 'f' and k.conparentid = 0 join pg_class r on r.oid = k.conrelid
	where r.oid <> l.oid and not exists (select from unnest($5::text[]) t where to_regclass(t) = r.oid)
)
select h.what, h.statements, coalesce(c.problem, h.problem, ''), h.lock, h.after
from hanging h
left join lateral (
	select case
			when n.attname is null then format('it uses column %I, which the new table does not have', o.attname)
			else format('it uses column %I, which was %s%s and is %s%s in the new table', o.attname,
				format_type(o.atttypid, o.atttypmod), case when o.attcollation <> n.attcollation then ' collate ' || o.attcollation::regcollation end,
				format_type(n.atttypid, n.atttypmod), case when o.attcollation <> n.attcollation then ' collate ' || n.attcollation::regcollation end)
		end as problem
	from pg_depend d
	join pg_attribute o on o.attrelid = d.refobjid and o.attnum = d.refobjsubid
	left join pg_attribute n on n.attrelid = h.built and n.attname = o.attname and not n.attisdropped
	where h.built is not null
	  and d.classid = h.class and d.objid = h.id and d.refclassid = 'pg_class'::regclass and d.refobjid = h.live and d.refobjsubid > 0
	  and (n.attname is null
		or h.rank = 5 and (n.atttypid, n.atttypmod, n.attcollation) <> (o.atttypid, o.atttypmod, o.attcollation)
		or h.rank = 7 and n.atttypid <> o.atttypid)
	order by o.attnum
	limit 1
) c on true
order by h.rank, h.what`

// changeTables does what the plan says, and makes anew what hung on the tables that are replaced.
func (s *Schema) changeTables(ctx context.Context, tx pgx.Tx, m *migration, plan *Plan, all []belonging) error {
	successions, err := s.successions(ctx, tx, plan)
	if err != nil {
		return err
	}
	for _, t := range plan.Tables {
		if err := s.change(ctx, tx, m, t, successions); err != nil {
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
