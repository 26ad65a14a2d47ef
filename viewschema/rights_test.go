package viewschema_test

import (
	"context"
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
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// rights lists what the roles may do with the view tables and their sequences, by the names of the live ones: also with those that are
// built, archived, or hold partial rows. Only the last part of the name says which it is.
const rights = `
	select role || ' ' || privilege || ' ' || thing || ' ' || which
	from (
		select r as role, p as privilege, c.oid as id, regexp_replace(regexp_replace(c.relname, '^projector_partial_', ''), '_[0-9]+$', '') || '.' || a.attname as thing,
			case when c.relname ~ '(^projector_partial_.*|_[0-9]+)$' then c.relname else 'live' end as which, has_column_privilege(r, c.oid, a.attnum, p) as may
		from unnest($1::text[]) r, unnest('{select,insert,update,references}'::text[]) p, pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.relnamespace = 'view_schema'::regnamespace and c.relkind = 'r' and c.relname !~ '^(projector_(?!partial_)|at_)'
		union all
		select r, p, c.oid, regexp_replace(t.relname, '_[0-9]+$', '') || '.' || a.attname, case when t.relname ~ '_[0-9]+$' then t.relname else 'live' end, has_sequence_privilege(r, c.oid, p)
		from unnest($1::text[]) r, unnest('{usage,select,update}'::text[]) p,
			pg_class c
			join pg_depend d on d.objid = c.oid and d.deptype in ('a', 'i')
			join pg_class t on t.oid = d.refobjid
			join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
		where c.relnamespace = 'view_schema'::regnamespace and c.relkind = 'S'
	) rights
	where may
	order by 1`

func rightsOf(ctx context.Context, t *testing.T, db *pgxpool.Pool, roles ...string) []string {
	t.Helper()
	rows, err := db.Query(ctx, rights, roles)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Nobody can ever do anything with a table that is built, live or archived, or with its sequences, that they could not do with the one
// that was live in the beginning; and in the end, all can do what they could. Looked at after each commit. Default privileges
// would give rights away, and were seen to, without what takes them away from tables, from columns, and from sequences.
func TestNobodyGainsOrLosesAccess(t *testing.T) {
	t.Parallel()
	for what, definition := range map[string]func(version int) viewschema.Definition{
		"numbers": numbered,
		"the bank": func(version int) viewschema.Definition {
			d := bank.Definition
			d.Projectors = []*projections.Projector{bank.Accounts, bank.Transactions}
			d.Versions = projector.Versions{}
			for v := range version {
				d.Versions[v+1] = []projector.Change{projector.Replay(bank.Accounts, bank.Transactions)}
			}
			return d
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, filledStore)
			mustExec(t, db, openAccount)
			s := open(t, db, definition(1))
			online(t, s)
			offline(t, s)
			fill := roles(t, db, "STRANGER", "CLERK", "ANALYST")
			table, column := "entries", "no"
			if what == "the bank" {
				table, column = "accounts", "balance"
			} else {
				mustExec(t, db, fill.Replace("grant usage on view_schema.entries_no_seq to CLERK"))
			}
			mustExec(t, db, fill.Replace(`
				alter default privileges in schema view_schema grant all on tables to STRANGER, public;
				alter default privileges in schema view_schema grant all on sequences to STRANGER, public;
				grant select (id, `+column+`), update (id) on view_schema.`+table+` to CLERK;
				grant select, insert on view_schema.`+table+` to ANALYST with grant option`))
			who := strings.Fields(fill.Replace("STRANGER CLERK ANALYST"))
			before := rightsOf(t.Context(), t, db, who...)
			if len(before) < 6 {
				t.Fatalf("there is nothing to look at: %q", before)
			}
			seen := map[string]bool{}
			watch := pg.WithFault(t.Context(), func(m pg.Moment, _ pg.Point) {
				if m != pg.After {
					return
				}
				for _, right := range rightsOf(t.Context(), t, db, who...) {
					held, which := right[:strings.LastIndex(right, " ")], right[strings.LastIndex(right, " ")+1:]
					if !slices.Contains(before, held+" live") && !seen[right] {
						t.Errorf("a right that nobody gave: %s", right)
						seen[right] = true
					}
					if which != "live" && !seen[right] {
						t.Errorf("a right on a table that is not live: %s", right)
						seen[right] = true
					}
				}
			})
			second := open(t, db, definition(2))
			for _, run := range []func(context.Context) (viewschema.Result, error){
				second.MigrateOnline, second.Abort, second.MigrateOnline, second.CatchUp, second.MigrateOffline, s.Rollback, second.Rollback,
			} {
				if _, err := run(watch); err != nil {
					t.Fatal(err)
				}
			}
			if after := rightsOf(t.Context(), t, db, who...); !slices.Equal(after, before) {
				t.Errorf("in the end\n%q\nbefore\n%q", after, before)
			}
		})
	}
}

// Rows that row security hides are hidden on the way to a cutover and after it, also from roles that may read everything.
func TestRowsStayHidden(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	auditor := fmt.Sprintf("auditor_%d", rand.Uint64())
	mustExec(t, db, "create role "+auditor+" login; grant pg_read_all_data to "+auditor+"; alter table view_schema.accounts enable row level security")
	t.Cleanup(func() {
		if _, err := db.Exec(context.WithoutCancel(t.Context()), "drop role "+auditor); err != nil {
			t.Error(err)
		}
	})
	config := db.Config()
	config.ConnConfig.User = auditor
	theirs, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	hidden := func(tables ...string) {
		t.Helper()
		for _, table := range tables {
			if n := scalar[int64](t, theirs, "select count(*) from view_schema."+table); n != 0 {
				t.Errorf("the auditor sees %d rows of %s", n, table)
			}
		}
	}
	hidden("accounts")
	s := open(t, db, version2())
	online(t, s)
	hidden("accounts", "accounts_2")
	offline(t, s)
	hidden("accounts", "accounts_1")
	verify(t, db, 2)
	rollBack(t, open(t, db, v1.Definition))
	hidden("accounts", "accounts_2")
	mustExec(t, db, "alter table view_schema.accounts disable row level security")
	rollBack(t, s)
	if n := scalar[int64](t, theirs, "select count(*) from view_schema.accounts"); n == 0 {
		t.Error("row security came back that the live table did not have")
	}
}

// What PostgreSQL binds to the table and not to its name is found, however it depends.
func TestDependentsAreFound(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	_, err := db.Exec(t.Context(), `
		create table notes (account uuid);
		alter table notes enable row level security;
		create policy rich on notes using (exists (select from view_schema.accounts a where a.id = account));
		create function total() returns numeric language sql begin atomic select sum(balance) from view_schema.accounts; end;
		create function best() returns view_schema.accounts language sql as 'select * from view_schema.accounts limit 1';
		create materialized view sums as select sum(balance) from view_schema.accounts`)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := open(t, db, version2()).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, h := range plan.Hazards {
		if h.Blocks == viewschema.StageOffline {
			found = append(found, strings.SplitN(h.Text, " would", 2)[0])
		}
	}
	slices.Sort(found)
	want := []string{"function public.best()", "function public.total()", "materialized view public.sums", "policy rich on public.notes"}
	if !slices.Equal(found, want) {
		t.Errorf("found %q", found)
	}
}
