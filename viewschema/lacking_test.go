package viewschema_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5/pgxpool"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

func hazards(t *testing.T, s *viewschema.Schema) (texts []string) {
	t.Helper()
	plan, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range plan.Hazards {
		texts = append(texts, strings.TrimPrefix(string(h.Blocks)+": "+h.Text, ": "))
	}
	return texts
}

// rehearsing is open with a plan that makes tables in a transaction that it rolls back.
func rehearsing(t *testing.T, db *pgxpool.Pool, d viewschema.Definition) *viewschema.Schema {
	t.Helper()
	s, err := viewschema.Open(db, d, viewschema.Options{Rehearse: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The plan tells what the new tables will be without, before they are made and once they are built, and makes nothing for that.
func TestWhatTheNewTableWillBeWithout(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	names := roles(t, db, "ANALYST", "CLERK") // the one who has granted goes first
	mustExec(t, db, names.Replace(`
		create table owners (name text primary key);
		alter table view_schema.accounts
			add note text,
			add constraint solvent check (balance > -1000000),
			add constraint one_each unique (owner, id),
			add constraint known foreign key (owner) references owners not valid,
			alter balance set default 7;
		create index accounts_by_balance on view_schema.accounts using btree (balance desc) include (owner) where balance > 0;
		create unique index "By Owner" on view_schema.accounts (id, balance);
		create index accounts_by_note on view_schema.accounts (note);
		alter table view_schema.accounts replica identity using index "By Owner", add constraint noted check (note <> '');
		alter table view_schema.transactions set unlogged;
		grant select on view_schema.accounts to CLERK with grant option;
		grant usage on schema view_schema to CLERK;
		set role CLERK;
		grant select on view_schema.accounts to ANALYST;
		reset role;
		create publication all_of_it for all tables;
		create publication movements for table view_schema.accounts`))
	const balance = "index accounts_by_balance of view_schema.accounts is not on the new table; if it is needed, add to accounts.indexes.sql: create index accounts%SUFFIX%_by_balance on accounts%SUFFIX% USING btree (balance DESC) INCLUDE (owner) WHERE (balance > 0)"
	want := []string{
		balance,
		"column note of view_schema.accounts goes: the new table does not have it",
		"column balance of view_schema.accounts has the default 7, and none in the new table; if it is needed, add it to accounts.sql",
		`index "By Owner" of view_schema.accounts is not on the new table; if it is needed, add to accounts.indexes.sql: create unique index "By Owner%SUFFIX%" on accounts%SUFFIX% USING btree (id, balance)`,
		"constraint known of view_schema.accounts is not on the new table; if it is needed, add to accounts.sql: FOREIGN KEY (owner) REFERENCES public.owners(name)",
		"constraint one_each of view_schema.accounts is not on the new table; if it is needed, add to accounts.indexes.sql: UNIQUE (owner, id)",
		"constraint solvent of view_schema.accounts is not on the new table; if it is needed, add to accounts.sql: CHECK ((balance > '-1000000'::integer))",
		"foreign key known of view_schema.accounts stays on the archived table, too, and keeps rows of public.owners from being deleted until that is cleaned",
		`view_schema.accounts has the replica identity using index "By Owner", which is not on the new table; add the index to accounts.indexes.sql`,
		names.Replace("CLERK has granted rights on view_schema.accounts to ANALYST; on the new table they are granted by its owner, and do not go with those of CLERK"),
		"view_schema.transactions is unlogged, and the new table logged, as transactions.sql says",
		"publication all_of_it publishes every table of schema view_schema as soon as it is made: a subscriber that lacks the new tables stops with an error while they are filled; create them there before (plan --sql), or name the live ones in the publication instead",
		"subscribers of publication movements keep their rows of view_schema.accounts, and get from the new table what changes after the cutover: have them copy it anew then",
	}
	slices.Sort(want)
	s := rehearsing(t, db, sameAgain(2))
	before := dump(t, db)
	if got := slices.Sorted(slices.Values(hazards(t, s))); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if after := dump(t, db); after != before {
		t.Errorf("the plan has made something:\n%s", after)
	}

	online(t, s)
	got := hazards(t, s)
	typed := `; and as that is built already, type: create index concurrently accounts_2_by_balance on view_schema.accounts_2 USING btree (balance DESC) INCLUDE (owner) WHERE (balance > 0)`
	if len(got) != len(want) || !slices.Contains(got, balance+typed) {
		t.Fatalf("once it is built\n%s", strings.Join(got, "\n"))
	}
	_, statement, _ := strings.Cut(typed, "type: ")
	mustExec(t, db, statement)
	if slices.ContainsFunc(hazards(t, s), func(h string) bool { return strings.Contains(h, "accounts_by_balance") }) {
		t.Error("the index is still missing")
	}
	offline(t, s)
	if scalar[string](t, db, "select indrelid::regclass::text from pg_index where indexrelid = 'view_schema.accounts_by_balance'::regclass") != "view_schema.accounts" {
		t.Error("the index did not get its name")
	}
}

// A table that lies elsewhere, is stored otherwise, or is stricter, is told of.
func TestHowTheNewTableDiffers(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	if scalar[int](t, db, "select current_setting('server_version_num')::int") < 150000 {
		t.Skip("PostgreSQL 14 changes no access method, and wants folders for tablespaces")
	}
	d := sameAgain(2)
	views := fstest.MapFS{"accounts.sql": {Data: []byte("create table accounts%SUFFIX% (id uuid primary key, owner text, balance bigint not null)")}}
	for _, name := range []string{"transactions.sql", "transactions.indexes.sql"} {
		text, err := fs.ReadFile(v1.Definition.Views, name)
		if err != nil {
			t.Fatal(err)
		}
		views[name] = &fstest.MapFile{Data: text}
	}
	d.Views = views
	space := fmt.Sprintf("space_%d", rand.Uint64())
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, sql := range []string{
		"create access method another type table handler heap_tableam_handler", "alter table view_schema.accounts set access method another",
		"set allow_in_place_tablespaces = on", "create tablespace " + space + " location ''", "alter table view_schema.accounts set tablespace " + space,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		mustExec(t, db, "alter table view_schema.accounts set tablespace pg_default")
		mustExec(t, db, "drop tablespace "+space)
	}()
	want := []string{
		"column owner of view_schema.accounts is not null, but may be in the new table; if it must not, add it to accounts.sql",
		"view_schema.accounts has the access method another, and the new table heap; if it should have it, add to accounts.sql: using another",
		"view_schema.accounts is in tablespace " + space + ", and the new table in pg_default; if it should be there, add to accounts.sql: tablespace " + space,
	}
	if got := hazards(t, rehearsing(t, db, d)); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// What will block the cutover is told as soon as the tables are made, and not hours later.
func TestOnlineWarnsOfTheCutover(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	mustExec(t, db, "alter table view_schema.accounts add note text; create view v as select note from view_schema.accounts")
	w := &watcher{}
	online(t, watched(t, db, version2(), viewschema.Options{}, w))
	if log := w.log(); !strings.Contains(log, `"blocks":"migrate offline","message":"view public.v would stay behind with the archived table: it uses column note`) {
		t.Error(log)
	}
}

// Before anything is built, a plan that rehearses knows what will block the cutover, and what keeps the tables from being made.
func TestPlanLooksAhead(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	mustExec(t, db, "alter table view_schema.accounts add note text; create view v as select note from view_schema.accounts")
	want := []string{
		"migrate offline: view public.v would stay behind with the archived table: it uses column note, which the new table does not have; drop it before the cutover and create it again after",
		"column note of view_schema.accounts goes: the new table does not have it",
	}
	if got := hazards(t, rehearsing(t, db, version2())); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	mustExec(t, db, "drop view v; alter table view_schema.accounts drop column note; create publication p for table view_schema.accounts")
	d := version2()
	d.Views = files(map[string]string{"accounts.indexes.sql": "create unique index accounts%SUFFIX%_id on accounts%SUFFIX% (id)"})
	const noKey = "migrate offline: the place of view_schema.accounts in publication p would stay behind with the archived table: it publishes updates or deletes, for which the new table has no primary key; "
	if got := hazards(t, rehearsing(t, db, d)); len(got) == 0 || !strings.HasPrefix(got[0], noKey) {
		t.Errorf("got %q", got)
	}
	d.Views = files(map[string]string{"accounts.sql": "create table accounts%SUFFIX% (id uuid not null, owner text not null)", "accounts.indexes.sql": ""})
	if got := hazards(t, rehearsing(t, db, d)); len(got) == 0 || !strings.HasPrefix(got[0], "migrate online: ") || !strings.Contains(got[0], "accounts_2") {
		t.Errorf("a model that does not fit: got %q", got)
	}
	d.Views = files(map[string]string{"accounts.indexes.sql": "create index accounts%SUFFIX%_nick on accounts%SUFFIX% (nick)"})
	got := hazards(t, rehearsing(t, db, d))
	if len(got) == 0 || !strings.HasPrefix(got[0], "migrate online: accounts.indexes.sql: ") || !strings.Contains(got[0], `column "nick" does not exist`) {
		t.Errorf("got %q", got)
	}
}
