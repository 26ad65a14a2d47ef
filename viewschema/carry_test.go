package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// descriptions say what the catalog has about the tables that are live, by their names: archived ones end in a number, and
// those of the bookkeeping begin with projector_ or at_.
var descriptions = []string{
	`select format('%s %s: owner %s, %s, options %s, identity %s, row security %s %s, %s', c.relkind, c.relname, c.relowner::regrole, c.relacl, c.reloptions,
		c.relreplident, c.relrowsecurity, c.relforcerowsecurity, obj_description(c.oid, 'pg_class'))
	from live c`,
	`select format('toast of %s: %s', c.relname, t.reloptions) from live c join pg_class t on t.oid = c.reltoastrelid`,
	`select format('column %s.%s: %s, target %s, options %s, %s, %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), nullif(a.attstattarget, -1),
		a.attoptions, a.attacl, col_description(c.oid, a.attnum))
	from live c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped`,
	`select format('%s, identity %s, %s', pg_get_indexdef(i.indexrelid), i.indisreplident, obj_description(i.indexrelid, 'pg_class'))
	from live c join pg_index i on i.indrelid = c.oid`,
	`select format('constraint %s of %s: %s, %s', k.conname, c.relname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint'))
	from live c join pg_constraint k on k.conrelid = c.oid`,
	`select format('%s, enabled %s, %s', pg_get_triggerdef(t.oid), t.tgenabled, obj_description(t.oid, 'pg_trigger'))
	from live c join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal`,
	`select format('policy %s of %s: %s %s %s %s %s, %s', p.polname, c.relname, p.polpermissive, p.polcmd, p.polroles::regrole[],
		pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid), obj_description(p.oid, 'pg_policy'))
	from live c join pg_policy p on p.polrelid = c.oid`,
	`select format('%s, %s', pg_get_statisticsobjdef(e.oid), obj_description(e.oid, 'pg_statistic_ext'))
	from live c join pg_statistic_ext e on e.stxrelid = c.oid`,
	`select format('sequence %s of %s: %s', s.relname, c.relname, s.relacl)
	from live c join pg_depend d on d.refobjid = c.oid and d.deptype in ('a', 'i') join pg_class s on s.oid = d.objid and s.relkind = 'S'`,
	`select format('view %s: owner %s, %s, options %s, %s', v.oid, v.relowner::regrole, v.relacl, v.reloptions, pg_get_viewdef(v.oid))
	from pg_class v where v.relkind = 'v' and v.oid >= 16384`,
}

func describe(t *testing.T, db *pgxpool.Pool) string {
	t.Helper()
	var all []string
	for _, query := range descriptions {
		rows, err := db.Query(t.Context(), `
			with live as (
				select * from pg_class
				where relnamespace = 'view_schema'::regnamespace and relkind = 'r' and relname !~ '(_[0-9]+$|^projector_|^at_)'
			) `+query)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(lines)
		all = append(all, lines...)
	}
	return strings.Join(all, "\n")
}

// sameAgain has versions in which nothing changes but the tables.
func sameAgain(versions int) viewschema.Definition {
	d := v1.Definition
	d.Versions = projector.Versions{}
	for v := range versions {
		d.Versions[v+1] = []projector.Change{projector.Replay(v1.Accounts, bank.Transactions)}
	}
	return d
}

// What hangs on a table hangs on the one that takes its place, after a first cutover and after a second one.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	clerk, analyst := fmt.Sprintf("clerk_%d", rand.Uint64()), fmt.Sprintf("analyst_%d", rand.Uint64())
	mustExec(t, db, "create role "+clerk+"; create role "+analyst)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, role := range []string{clerk, analyst} {
			if _, err := db.Exec(ctx, "drop owned by "+role+"; drop role "+role); err != nil {
				t.Error(err)
			}
		}
	})
	mustExec(t, db, strings.NewReplacer("CLERK", clerk, "ANALYST", analyst).Replace(`
		create schema reports;
		create table reports.log (what text);
		create function reports.note() returns trigger language plpgsql as $$begin insert into reports.log values (tg_name); return new; end$$;
		grant usage on schema view_schema to CLERK, ANALYST;

		comment on table view_schema.accounts is 'what people have';
		comment on column view_schema.accounts.balance is 'in cents';
		comment on index view_schema.accounts_pkey is 'the key';
		comment on constraint accounts_pkey on view_schema.accounts is 'one each';
		alter table view_schema.accounts alter column balance set statistics 500;
		alter table view_schema.accounts alter column owner set (n_distinct = 100);
		alter table view_schema.accounts set (autovacuum_vacuum_scale_factor = 0.01, toast.autovacuum_enabled = false);
		create statistics view_schema.accounts_owners (dependencies) on owner, balance from view_schema.accounts;
		comment on statistics view_schema.accounts_owners is 'names tell';
		alter table view_schema.accounts replica identity full;
		alter table view_schema.transactions replica identity using index transactions_account;

		grant select (id, owner) on view_schema.accounts to CLERK;
		alter table view_schema.accounts enable row level security;
		create policy small on view_schema.accounts as restrictive for select to CLERK using (balance < 1000000);
		create policy named on view_schema.accounts for all using (true) with check (owner <> '');
		comment on policy small on view_schema.accounts is 'no great fortunes';

		create trigger note after update of balance on view_schema.accounts for each row when (new.balance < 0) execute function reports.note();
		create trigger always before insert on view_schema.transactions for each statement execute function reports.note();
		create constraint trigger late after insert on view_schema.transactions deferrable initially deferred for each row execute function reports.note();
		alter table view_schema.transactions enable always trigger always;
		alter table view_schema.transactions disable trigger late;
		comment on trigger note on view_schema.accounts is 'who is in debt';

		create view reports.rich with (security_barrier) as select id, owner from view_schema.accounts where balance > 100;
		grant select on reports.rich to ANALYST;
		create view reports.richest as select * from reports.rich order by owner limit 1;
		create view reports.movements as select a.owner, t.amount from view_schema.accounts a join view_schema.transactions t on t.account_id = a.id`))
	before := describe(t, db)
	for version := 2; version <= 3; version++ {
		s := open(t, db, sameAgain(version))
		plan, err := s.Plan(t.Context())
		if err != nil || len(plan.Hazards) > 0 || !slices.Contains(plan.Carried, "view reports.movements") {
			t.Errorf("the plan: %+v, %v", plan, err)
		}
		online(t, s)
		offline(t, s)
		if after := describe(t, db); after != before {
			t.Errorf("at version %d:\n%s\nbefore:\n%s", version, after, before)
		}
	}
	if _, err := open(t, db, sameAgain(2)).Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := describe(t, db); after != before {
		t.Errorf("after a rollback:\n%s\nbefore:\n%s", after, before)
	}
	verify(t, db, 1)
	if n := scalar[int64](t, db, "select count(*) from reports.movements"); n == 0 {
		t.Error("the view shows nothing")
	}
	if n := scalar[int64](t, db, "select count(*) from reports.log"); n != 0 {
		t.Errorf("triggers of the archived tables have run %d times", n)
	}
	// Nothing shows what is in the archived tables.
	mustExec(t, db, "drop table view_schema.accounts_1, view_schema.accounts_3, view_schema.transactions_1, view_schema.transactions_3")
}

// What cannot be made anew for the new table is found before anything is locked, and the live tables stay as they are.
func TestWhatCannotBeMadeAnew(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct{ sql, want string }{
		"a view of a column that goes":            {"create view v as select note from view_schema.accounts", "view public.v would stay behind with the archived table: it uses column note, which the new table does not have"},
		"a view of a column that changes":         {"create view v as select owner from view_schema.accounts", "it uses column owner, which was character varying(99) and is text in the new table"},
		"a policy on a column that goes":          {"create policy p on view_schema.accounts using (note is null)", "policy p of view_schema.accounts would stay behind"},
		"a trigger on a column that goes":         {"create trigger g after update of note on view_schema.accounts for each row execute function f()", "trigger g of view_schema.accounts would stay behind"},
		"statistics of a column that goes":        {"create statistics s on note, owner from view_schema.accounts", "statistics public.s would stay behind"},
		"a materialized view":                     {"create materialized view m as select 1 from view_schema.accounts", "materialized view m would stay behind"},
		"a rule":                                  {"create rule r as on update to view_schema.accounts do also select 1", "rule of view_schema.accounts would stay behind"},
		"a foreign key":                           {"create table k (id uuid references view_schema.accounts)", "foreign key k_id_fkey of k would stay behind"},
		"a place in a publication":                {"create publication p for table view_schema.accounts", "the place of view_schema.accounts in publication p would stay behind"},
		"a policy of another table that reads it": {"create table k (id uuid); create policy p on k using (exists (select from view_schema.accounts))", "policy p of k would stay behind"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			mustExec(t, db, `
				create function f() returns trigger language plpgsql as $$begin return new; end$$;
				alter table view_schema.accounts add column note text, alter column owner type varchar(99);`+test.sql)
			s := open(t, db, version2())
			online(t, s)
			before := dump(t, db)
			_, err := s.MigrateOffline(t.Context())
			if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			plan, err := s.Plan(t.Context())
			if err != nil || !slices.ContainsFunc(plan.Hazards, func(h viewschema.Hazard) bool { return strings.Contains(h.Text, test.want) }) {
				t.Errorf("the plan has %+v, %v", plan, err)
			}
			if after := dump(t, db); after != before {
				t.Errorf("the schema has changed:\n%s", after)
			}
		})
	}
}
