package viewschema_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// Rights on the new table are those of the one that it replaces: column grants come along, and what default privileges
// would give to others does not, neither while it is built nor after. Seen to leak without the revoke.
func TestNobodyGainsOrLosesAccess(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	analyst, clerk := fmt.Sprintf("analyst_%d", rand.Uint64()), fmt.Sprintf("clerk_%d", rand.Uint64())
	_, err := db.Exec(t.Context(), "create role "+analyst+"; create role "+clerk+
		"; alter default privileges in schema view_schema grant select on tables to "+analyst+
		"; grant select (id, balance) on view_schema.accounts to "+clerk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, role := range []string{analyst, clerk} {
			if _, err := db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+"; drop role "+role); err != nil {
				t.Error(err)
			}
		}
	})
	may := func(role, table, column string) (may bool) {
		if err := db.QueryRow(t.Context(), "select has_column_privilege($1, $2, $3, 'select')", role, "view_schema."+table, column).Scan(&may); err != nil {
			t.Fatal(err)
		}
		return may
	}
	s := open(t, db, version2())
	online(t, s)
	if may(analyst, "accounts_2", "id") {
		t.Error("the table that is built can be read by a role that may not read the live one")
	}
	offline(t, s)
	if may(analyst, "accounts", "id") {
		t.Error("a role that could not read the old table can read the new one")
	}
	if !may(clerk, "accounts", "balance") || may(clerk, "accounts", "iban") {
		t.Error("the column grants did not come along as they were")
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
	want := []string{"function public.best()", "function public.total()", "materialized view sums", "policy rich on public.notes"}
	if !slices.Equal(found, want) {
		t.Errorf("found %q", found)
	}
}
