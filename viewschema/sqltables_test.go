package viewschema_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/examples/bank-sql/queries"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/sql/views"
	"github.com/viewschema/projector/viewschema"
)

// bankIn is the bank's second release, with these tables in SQL; both are rebuilt.
func bankIn(tables ...string) viewschema.Definition {
	d := bank.Definition
	d.Projectors = []*projections.Projector{bank.Accounts, bank.Transactions}
	for i, p := range queries.Projectors() {
		if slices.Contains(tables, p.Name) {
			d.Projectors[i] = p
		}
	}
	if len(tables) == 2 {
		d.Events = nil // queries know their types themselves
	}
	replay := projector.Replay(d.Projectors[0], d.Projectors[1])
	d.Versions = projector.Versions{1: {replay}, 2: {replay}}
	return d
}

// inSQLTable is a projector of one table, which has the table's name.
func inSQLTable(table projections.SQLTable) *projections.Projector {
	return &projections.Projector{Name: table.Name, Tables: []projections.Table{&table}}
}

// The bank's queries make the rows that its Go projectors make, alone and beside them, while writers append through the whole
// migration and go on with Go code on the tables that SQL has filled.
func TestBankInSQL(t *testing.T) {
	t.Parallel()
	for name, tables := range map[string][]string{
		"both": {"accounts", "transactions"}, "accounts": {"accounts"}, "transactions": {"transactions"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			db := pgtest.Database(t, atVersion1)
			if slices.Contains(tables, "accounts") { // the writers' code has branch_totals, which are not made then
				if _, err := db.Exec(t.Context(), branchTotals(t)); err != nil {
					t.Fatal(err)
				}
			}
			stop := writers(t, db, 3, seed, v1.Definition, byAggregate())
			s := open(t, db, bankIn(tables...))
			plan, err := s.Plan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(plan.Unknown) > 0 || plan.Batches > 2 {
				t.Errorf("in SQL, event types are the queries' and batches are few: %+v", plan)
			}
			if r := online(t, s); r.Events < 9_000 || r.Rows == 0 {
				t.Errorf("%+v", r)
			}
			for range 3 {
				if _, err := s.CatchUp(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.MigrateOffline(t.Context()); err != nil {
				t.Error(err)
			}
			for i, w := range stop() {
				if w.Events == 0 {
					t.Errorf("writer %d has written nothing", i)
				}
			}
			verify(t, db, 2, "accounts", "transactions")
		})
	}
}

// branchTotals is SQL that makes the table.
func branchTotals(t *testing.T) string {
	t.Helper()
	text, err := views.FS.ReadFile("branch_totals.sql")
	if err != nil {
		t.Fatal(err)
	}
	return "set search_path = view_schema; " + strings.ReplaceAll(string(text), "%SUFFIX%", "") + "; reset search_path"
}

// In development, queries fill the tables as handlers do.
func TestReplayAllInSQL(t *testing.T) {
	t.Parallel()
	for _, tables := range [][]string{{"accounts", "transactions"}, {"transactions"}} {
		t.Run(strings.Join(tables, " "), func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, filledStore)
			s := open(t, db, bankIn(tables...))
			if _, err := s.CreateTables(t.Context()); err != nil {
				t.Fatal(err)
			}
			r, err := s.ReplayAll(t.Context())
			if err != nil || r.Events != 10_000 || r.Rows == 0 {
				t.Errorf("%+v, %v", r, err)
			}
			verify(t, db, 2, "accounts", "transactions")
		})
	}
}

// fewAccounts has fifty accounts with a deposit each and a large one, which is not among those that a query is tried on.
func fewAccounts(ctx context.Context, conn *pgx.Conn) error {
	if err := emptyStore(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `
		insert into events (aggregate_id, sequence_number, event_type, data)
		select format('00000000-0000-0000-0000-%s', to_char(least(n, 51), 'FM000000000000'))::uuid,
			greatest(n - 50, 1), 'MoneyDeposited', '{"amount": 1, "description": "ü"}'
		from generate_series(1, 60) n`)
	return err
}

// What is wrong with a query is said before anything is made, with its place.
func TestWrongQueries(t *testing.T) {
	t.Parallel()
	const rest = "aggregate_id as account_id, sequence_number as seq, 'k' as kind, 1 as amount, 1 as balance, 'd' as description, created_at as at"
	const from = " from %EVENTS% e"
	alone := []string{"ErrAggregates", "q.sql yields the row (", "view over the table"}
	for name, test := range map[string]struct {
		query string
		want  []string
	}{
		"syntax":            {"-- ü\nselect *\nfrom %EVENTS% e\n\twhere position = = 1", []string{"q.sql:4:19: table view_schema.transactions: ERROR: ", "\n    \twhere position = = 1\n    \t                 ^"}},
		"no such column":    {"select e.name, (select count(*) from %EVENTS% f), e.nam" + from, []string{"q.sql:1:8: ", "column e.name does not exist"}},
		"after the events":  {"select 1\nfrom %EVENTS% e, %EVENTS% f where f.nothing;", []string{"q.sql:2:35: "}},
		"parameter":         {"select $1::int as event_id, " + rest + from, []string{"has parameters like $1"}},
		"no aggregate":      {"select position as event_id" + from, []string{"yields no column account_id"}},
		"twice":             {"select 1 as seq, position as event_id, " + rest + from, []string{"yields column seq twice"}},
		"surplus column":    {"select position as event_id, 1 as more, " + rest + from, []string{"yields column more, which table view_schema.transactions_1 does not have"}},
		"column missing":    {"select " + rest + from, []string{"yields no column event_id, which table view_schema.transactions_1 has as not null"}},
		"rank":              {"select rank() over (order by aggregate_id) as event_id, " + rest + from, alone},
		"sum over all":      {"select position as event_id, " + strings.Replace(rest, "1 as balance", "sum(1) over (order by position) as balance", 1) + from, alone},
		"first of all":      {"select position as event_id, " + rest + from + " order by position limit 1", alone},
		"no aggregate's":    {"select position as event_id, " + strings.Replace(rest, "aggregate_id", "null::uuid", 1) + from, []string{"ErrAggregates", "in which account_id is null"}},
		"another aggregate": {"select position as event_id, " + strings.Replace(rest, "aggregate_id", "gen_random_uuid()", 1) + from, []string{"ErrAggregates", "whose events it was not given"}},
		"writes":            {"select position as event_id, nextval('events_position_seq'), " + rest + from, []string{"read-only transaction"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, fewAccounts)
			d := bank.Definition
			p := inSQLTable(projections.SQLTable{Name: "transactions", Aggregate: "account_id", Query: test.query, File: "q.sql"})
			d.Projectors, d.Versions = []*projections.Projector{p}, projector.Versions{1: {projector.Replay(p)}}
			s := open(t, db, d)
			_, planErr := s.Plan(t.Context())
			if _, err := s.Init(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := dump(t, db)
			_, err := s.MigrateOnline(t.Context())
			needsTable := strings.Contains(test.want[0], "_1")
			for _, err := range []error{planErr, err} {
				if needsTable && err == nil {
					needsTable = false // a plan makes no table
					continue
				}
				if !errors.Is(err, viewschema.ErrDefinition) {
					t.Fatalf("got %v", err)
				}
				for _, want := range test.want {
					if want == "ErrAggregates" {
						if !errors.Is(err, viewschema.ErrAggregates) {
							t.Errorf("got %v", err)
						}
					} else if !strings.Contains(err.Error(), want) {
						t.Errorf("want %q in\n%v", want, err)
					}
				}
			}
			if after := dump(t, db); after != before {
				t.Errorf("the schema has changed:\n%s", after)
			}
		})
	}
}

// What only rare events show is found in their batch, and in their catch-up: the batch is rolled back.
func TestStrayRows(t *testing.T) {
	t.Parallel()
	const query = `
		select e.position as event_id, case when e.sequence_number > 9 then %ID% else e.aggregate_id end as account_id,
			e.sequence_number as seq, 'k' as kind, 1 as amount, 1 as balance, 'd' as description, e.created_at as at
		from %EVENTS% e`
	for id, want := range map[string]string{
		"null": "view_schema.transactions_1: each row of a SQL table has to derive from the events of one aggregate: q.sql yields a row in which account_id is null",
		"'00000000-0000-0000-0000-0000000000ff'::uuid": "account_id is 00000000-0000-0000-0000-0000000000ff, an aggregate whose events it was not given",
	} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, fewAccounts)
			p := inSQLTable(projections.SQLTable{Name: "transactions", Aggregate: "account_id", Query: strings.ReplaceAll(query, "%ID%", id), File: "q.sql"})
			d := bank.Definition
			d.Projectors, d.Versions = []*projections.Projector{p}, projector.Versions{1: {projector.Replay(p)}}
			s := open(t, db, d)
			if id == "null" {
				if _, err := s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrAggregates) || !strings.Contains(err.Error(), want) {
					t.Fatalf("got %v", err)
				}
				return
			}
			if _, err := db.Exec(t.Context(), "delete from events where sequence_number > 9"); err != nil {
				t.Fatal(err)
			}
			online(t, s)
			if _, err := db.Exec(t.Context(), `
				insert into events (aggregate_id, sequence_number, event_type, data)
				values ('00000000-0000-0000-0000-000000000051', 10, 'MoneyDeposited', '{"amount": 1}')`); err != nil {
				t.Fatal(err)
			}
			if _, err := s.CatchUp(t.Context()); !errors.Is(err, viewschema.ErrAggregates) || !strings.Contains(err.Error(), want) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// The rows that a query leaves out by itself may have any aggregate. Seen to fail without "offset 0", where PostgreSQL moves the
// cheaper condition before the query's own.
func TestRowsLeftOut(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, fewAccounts)
	p := inSQLTable(projections.SQLTable{Name: "transactions", Aggregate: "account_id", Query: `
		select e.position as event_id, case when e.sequence_number <= 9 then e.aggregate_id end as account_id,
			e.sequence_number as seq, 'k' as kind, 1 as amount, 1 as balance, 'd' as description, e.created_at as at
		from %EVENTS% e
		where e.sequence_number + 0 * length(md5(md5(md5(e.data::text)))) <= 9`})
	d := bank.Definition
	d.Projectors, d.Versions = []*projections.Projector{p}, projector.Versions{1: {projector.Replay(p)}}
	if r := online(t, open(t, db, d)); r.Rows != 59 {
		t.Errorf("%d rows, want 59", r.Rows)
	}
}

// A half-built table is not finished with another query.
func TestQueryHasChanged(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	online(t, open(t, db, bankIn("accounts", "transactions")))
	d := bankIn("accounts", "transactions")
	changed := *d.Projectors[0].Tables[0].(*projections.SQLTable)
	changed.Query += "-- "
	d.Projectors[0] = inSQLTable(changed)
	replay := projector.Replay(d.Projectors[0], d.Projectors[1])
	d.Versions = projector.Versions{1: {replay}, 2: {replay}}
	_, err := open(t, db, d).CatchUp(t.Context())
	if !errors.Is(err, viewschema.ErrChanged) || !strings.Contains(err.Error(), "query of accounts has changed") {
		t.Errorf("got %v", err)
	}
}
