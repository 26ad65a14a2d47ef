package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// again is the bank's last release, whose version 4 rebuilds every table in the shape that it has.
func again() viewschema.Definition {
	d := bank.Definition
	d.Versions = maps.Clone(d.Versions)
	d.Versions[4] = []projector.Change{projector.Replay(bank.Accounts, bank.Transactions, bank.Transfers)}
	return d
}

// atVersion3 is a database whose last release is live.
func atVersion3(ctx context.Context, conn *pgx.Conn) error { return goLive(ctx, conn, bank.Definition) }

// expecting is a schema that leaves differences out.
func expecting(t *testing.T, db *pgxpool.Pool, d viewschema.Definition, expected ...string) *viewschema.Schema {
	t.Helper()
	s, err := viewschema.Open(db, d, viewschema.Options{Log: zerolog.New(zerolog.NewTestWriter(t)), Expect: expected})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func comparisons(t *testing.T, s *viewschema.Schema) map[string]viewschema.TableComparison {
	t.Helper()
	v, err := s.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byTable := map[string]viewschema.TableComparison{}
	for _, c := range v.Tables {
		byTable[c.Table] = c
	}
	return byTable
}

// told is what a comparison has found, in short.
func told(c viewschema.TableComparison) string {
	return fmt.Sprint(c.OnlyBuilt, " only built, ", c.OnlyLive, " only live, ", c.Differ, " differ ", c.Columns)
}

// What differs is found, to the row and the column, whatever table it is in. Nothing is left behind by looking for it, not even the
// event that comes after the catch-up and is applied for it.
func TestVerifyFindsDifferences(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion3)
	store, customers := liveStore(t, db, bank.Definition)
	late := false
	s := watched(t, db, again(), viewschema.Options{}, &watcher{before: func(sql string) {
		if late && strings.HasPrefix(sql, "lock table") && strings.Contains(sql, "projector_migrations") {
			if err := store.Append(t.Context(), customers.Act()...); err != nil {
				t.Error(err)
			}
		}
	}})
	online(t, s)
	if found := comparisons(t, s); len(found) != 4 || !found["accounts"].Same() {
		t.Fatalf("before: %+v", found)
	}
	mustExec(t, db, `
		update view_schema.accounts set balance = balance + 1, owner = owner || '?' where id = (select id from view_schema.accounts order by id limit 1);
		update view_schema.accounts set owner = 'Zoë' where id = (select id from view_schema.accounts order by id offset 1 limit 1);
		update view_schema.branch_totals set turnover = turnover - 1 where (branch, currency) = ('Gent', 'EUR');
		delete from view_schema.transactions where event_id = (select event_id from view_schema.transactions order by event_id limit 1);
		insert into view_schema.transactions select -1, account_id, -1, kind, amount, balance, description, at from view_schema.transactions limit 1;
		with two as (select id, received_at, row_number() over (order by id) as i from view_schema.transfers where received_at is not null order by id limit 2)
		update view_schema.transfers t set received_at = o.received_at from two f join two o on o.i = 3 - f.i where t.id = f.id`)
	state := func() string {
		return scalar[string](t, db, `
			select concat_ws(' ', (select md5(string_agg(a::text, '' order by id)) from view_schema.accounts_4 a),
				(select md5(string_agg(b::text, '' order by branch, currency)) from view_schema.branch_totals_4 b),
				(select count(*) from view_schema.transactions_4), (select count(*) from view_schema.projector_replayed_ids),
				(select array_agg(m::text order by id) from view_schema.projector_migrations m),
				(select array_agg(l::text order by migration_id) from view_schema.projector_lanes l))`)
	}
	before, schema := state(), dump(t, db)
	late = true
	found := comparisons(t, s)
	late = false
	if after := state(); after != before {
		t.Errorf("rows, ledger and cut were %s, and are %s", before, after)
	}
	if after := dump(t, db); after != schema {
		t.Error("it has left something")
	}
	if st, err := s.Status(t.Context()); err != nil || st.Migration.Tail == 0 {
		t.Errorf("no event came meanwhile: %+v, %v", st.Migration, err)
	}
	for table, want := range map[string]string{
		"accounts":      "0 only built, 0 only live, 2 differ [{owner 2} {balance 1}]",
		"branch_totals": "0 only built, 0 only live, 1 differ [{turnover 1}]",
		"transactions":  "1 only built, 1 only live, 0 differ []",
		"transfers":     "0 only built, 0 only live, 2 differ [{received_at 2}]",
	} {
		if got := told(found[table]); got != want {
			t.Errorf("%s: %s, want %s", table, got, want)
		}
	}
	first := scalar[string](t, db, "select id::text from view_schema.accounts_4 order by id limit 1")
	if e := found["accounts"].Examples; len(e) != 2 || *e[0].Key["id"] != first || len(e[0].Built) != 2 || *e[0].Built["owner"]+"?" != *e[0].Live["owner"] {
		t.Errorf("examples of accounts: %+v", e)
	}
	if e := found["transactions"].Examples; len(e) != 2 || e[0].Live != nil || e[0].Built["kind"] == nil || e[1].Built != nil || *e[1].Key["event_id"] != "-1" {
		t.Errorf("examples of transactions: %+v", e)
	}
}

// liveStore is what a writer needs: a store whose events are projected by a release, and its customers.
func liveStore(t *testing.T, db *pgxpool.Pool, d viewschema.Definition) (*bank.Store, *bank.Customers) {
	t.Helper()
	release, err := bank.NewRelease(d)
	if err != nil {
		t.Fatal(err)
	}
	sets, err := bank.ShareOut(t.Context(), db, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	return &bank.Store{DB: db, Releases: []bank.Release{release}}, sets[0]
}

// A column that only one table has is a difference, until it is declared; a table without a predecessor is none.
func TestVerifyExpected(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	online(t, open(t, db, version2()))
	added := []string{"accounts.iban", "accounts.currency", "accounts.branch", "accounts.version", "accounts.opened_at"}

	found := comparisons(t, open(t, db, version2()))
	if c := found["accounts"]; c.Same() || len(c.OnlyBuiltColumns) != 5 || told(c) != "0 only built, 0 only live, 0 differ []" || c.BuiltRows == 0 {
		t.Errorf("%+v", c)
	}
	if c := found["branch_totals"]; !c.New || !c.Same() || len(found) != 3 {
		t.Errorf("%+v", found)
	}
	found = comparisons(t, expecting(t, db, version2(), added...))
	if c := found["accounts"]; !c.Same() || len(c.ExpectedColumns) != 5 || !slices.Equal(c.Key, []string{"id"}) {
		t.Errorf("with what was added: %+v", c)
	}
	mustExec(t, db, "update view_schema.accounts set owner = upper(owner); alter table view_schema.accounts add note text, add no serial, alter balance type numeric")
	found = comparisons(t, expecting(t, db, version2(), added...))
	if c := found["accounts"]; c.Differ != c.LiveRows || len(c.Columns) != 1 || !slices.Equal(c.OnlyLiveColumns, []string{"note", "no"}) {
		t.Errorf("with another owner: %+v", c)
	}
	all := append([]string{"accounts.owner", "accounts.note", "accounts.no"}, added...)
	if found = comparisons(t, expecting(t, db, version2(), all...)); !found["accounts"].Same() {
		t.Errorf("with all of it: %+v", found)
	}
	found = comparisons(t, expecting(t, db, version2(), append([]string{"accounts.id", "accounts.balance"}, all...)...))
	if c := found["accounts"]; !c.Same() || c.BuiltRows == 0 || c.BuiltRows != c.LiveRows {
		t.Errorf("with every column: %+v", c)
	}
	if found = comparisons(t, expecting(t, db, version2(), "accounts")); !found["accounts"].Expected || !found["accounts"].Same() {
		t.Errorf("with the whole table: %+v", found)
	}

	mustExec(t, db, openAccount)
	before := scalar[int64](t, db, "select max(cut) from view_schema.projector_migrations")
	_, err := expecting(t, db, version2(), "acounts.owner", "accounts.ownr", "transactions").Verify(t.Context())
	if !errors.Is(err, viewschema.ErrRefused) {
		t.Errorf("wrong names: %v", err)
	}
	for _, want := range []string{
		"--expect acounts.owner: version 2 rebuilds no table acounts; did you mean accounts?",
		`--expect accounts.ownr: table accounts has no column "ownr"; did you mean accounts.owner?`,
		"--expect transactions: version 2 rebuilds no table transactions",
	} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if after := scalar[int64](t, db, "select max(cut) from view_schema.projector_migrations"); after != before {
		t.Error("wrong names have not kept it from catching up")
	}
}

// Aggregates that are left out are said, since their rows are missing.
func TestVerifyWithParked(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, poisonedStoreAtVersion1)
	poison(t, db, 2, 0)
	o := viewschema.Options{OnError: replay.Park, Expect: []string{"accounts.iban", "accounts.currency", "accounts.branch", "accounts.version", "accounts.opened_at"}}
	s, err := viewschema.Open(db, byAggregate(), o)
	if err != nil {
		t.Fatal(err)
	}
	online(t, s)
	v, err := s.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := v.Tables[0]; v.Parked != 2 || v.LiveParked != 0 || c.OnlyBuilt+c.Differ > 0 || c.OnlyLive+c.BuiltRows != c.LiveRows {
		t.Errorf("%+v", v)
	}
}

func poisonedStoreAtVersion1(ctx context.Context, conn *pgx.Conn) error {
	if err := atVersion1(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "create table unspoiled (position bigint primary key, data jsonb not null)")
	return err
}

// Events in another database are compared all the same, and it is said what that is worth.
func TestVerifyElsewhere(t *testing.T) {
	t.Parallel()
	events, views := pgtest.Database(t, filledStore), pgtest.Database(t, nil)
	for _, d := range []viewschema.Definition{bank.Definition, again()} {
		s, err := viewschema.Open(views, d, viewschema.Options{Events: events})
		if err != nil {
			t.Fatal(err)
		}
		online(t, s)
		v, err := s.Verify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Tables) != 4 || !v.Same() || !strings.Contains(v.Apart, "another database") {
			t.Errorf("%+v", v)
		}
		offline(t, s)
	}
}

// What PostgreSQL prints is compared, by one way of printing: a type that casts to text otherwise than it prints is no difference, and
// neither is hidden what a cast leaves out, what fewer digits would, or what only one of the tables computes. Rows that another table
// lends by inheritance are in no row that could be found, and still make a difference.
func TestVerifyOfWhatIsPrinted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		live    string // what becomes of the live table
		columns []string
		odd     bool // unexplained
	}{
		"nothing":          {live: "select"},
		"a boolean as 't'": {live: "alter table view_schema.accounts add flag text default 't'; alter table view_schema.accounts_2 add flag boolean default true"},
		"and a difference beside it": {
			live: `alter table view_schema.accounts add flag text default 't'; alter table view_schema.accounts_2 add flag boolean default true;
				update view_schema.accounts set balance = balance + 1`,
			columns: []string{"balance"},
		},
		"blanks at the end": {
			live:    "alter table view_schema.accounts add code char(4) default 'ab'; alter table view_schema.accounts_2 add code text default 'ab'",
			columns: []string{"code"},
		},
		"the last digits": {
			live: `alter table view_schema.accounts add ratio float8 default 0.1::float8 + 0.2; alter table view_schema.accounts_2 add ratio float8 default 0.3;
				do $$ begin execute format('alter database %I set extra_float_digits = -3', current_database()); end $$`,
			columns: []string{"ratio"},
		},
		"a column that only the live table computes": {
			live: `alter table view_schema.accounts add twice bigint generated always as (balance * 2) stored;
				alter table view_schema.accounts_2 add twice bigint default -1`,
			columns: []string{"twice"},
		},
		"a column that both number": {
			live: `alter table view_schema.accounts add no bigint generated always as identity;
				alter table view_schema.accounts_2 add no bigint generated always as identity (start 1000000)`,
		},
		"an heir": {live: "create table heir () inherits (view_schema.accounts); insert into heir select * from view_schema.accounts limit 1", odd: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			online(t, open(t, db, sameAgain(2)))
			mustExec(t, db, c.live)
			db.Reset() // settings of the database
			v, err := open(t, db, sameAgain(2)).Verify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			at := slices.IndexFunc(v.Tables, func(c viewschema.TableComparison) bool { return c.Table == "accounts" })
			accounts := v.Tables[at]
			var columns []string
			for _, d := range accounts.Columns {
				if d.Rows != accounts.BuiltRows {
					t.Errorf("%s differs in %d rows of %d", d.Column, d.Rows, accounts.BuiltRows)
				}
				columns = append(columns, d.Column)
			}
			if !slices.Equal(columns, c.columns) || accounts.Unexplained != c.odd || v.Same() != (c.columns == nil && !c.odd) {
				t.Errorf("%+v", accounts)
			}
		})
	}
}
