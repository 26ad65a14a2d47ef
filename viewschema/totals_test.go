package viewschema_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// newest is an accumulating table with a last value, and a sum that the table has little room for.
type newest struct {
	bun.BaseModel `bun:"table:newest"`
	Branch        string    `bun:"branch,pk"`
	Opened        int64     `bun:"opened" view:"count"`
	Account       uuid.UUID `bun:"account" view:"last"`
	At            int64     `bun:"at" view:"position"`
}

func newestDefinition() viewschema.Definition {
	table := projections.NewTotals[newest]()
	p := &projections.Projector{Name: "newest", Tables: []projections.Table{table}, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[bank.Opened]) error {
			return table.Add(s, newest{Branch: e.Data.Branch, Account: e.AggregateID.UUID()})
		}),
	}}
	return viewschema.Definition{
		Events: bank.Events, Projectors: []*projections.Projector{p}, Versions: projector.Versions{1: {projector.Replay(p)}},
		Views: fstest.MapFS{
			"newest.sql":         {Data: []byte("create table newest%SUFFIX% (branch text, opened smallint not null, account uuid not null, at bigint not null)")},
			"newest.indexes.sql": {Data: []byte("alter table newest%SUFFIX% add constraint newest%SUFFIX%_pkey primary key (branch)")},
		},
	}
}

// manyAccounts has more accounts of a branch than a smallint counts.
func manyAccounts(ctx context.Context, conn *pgx.Conn) error {
	if err := emptyStore(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `
		insert into events (aggregate_id, sequence_number, event_type, data)
		select gen_random_uuid(), 1, 'AccountOpened', '{"branch": "Gent"}' from generate_series(1, 40000)`)
	return err
}

func sideTables(t *testing.T, db *pgxpool.Pool) (list []string) {
	t.Helper()
	rows, err := db.Query(t.Context(), "select format('%s %s', relname, relpersistence) from pg_class where relname like 'projector_partial%' order by 1")
	if err == nil {
		list, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// The merge is a batch: if it fails, what was replayed stays, status says where the migration stands, and it goes on when
// the cause is gone, or is aborted and leaves nothing.
func TestMergeResumes(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"resumed", "aborted", "damaged"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, manyAccounts)
			s := open(t, db, newestDefinition())
			if _, err := s.Init(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := dump(t, db)
			_, err := s.MigrateOnline(t.Context())
			if err == nil || !strings.Contains(err.Error(), "making the rows of newest of version 1") || !strings.Contains(err.Error(), "smallint out of range") {
				t.Fatal(err)
			}
			st, err := s.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if m := st.Migration; m == nil || m.Phase != "merge" || m.Batches != 1 || m.BatchesDone != 0 || m.EventsDone != 40_000 {
				t.Errorf("%+v", m)
			}
			var names []string
			for _, table := range st.Tables {
				names = append(names, table.Table+" "+table.Role)
			}
			if want := []string{"newest_1 built", "projector_partial_newest_1 partial"}; !slices.Equal(names, want) {
				t.Errorf("the tables are %v, want %v", names, want)
			}
			if got := sideTables(t, db); !slices.Equal(got, []string{"projector_partial_newest_1 p"}) {
				t.Errorf("side tables: %v; they have to be logged", got)
			}
			var spare int
			if err := db.QueryRow(t.Context(), `
				select (select count(*) from view_schema.projector_partial_newest_1) - count(*)
				from view_schema.projector_batches where phase = 1`).Scan(&spare); err != nil || spare != 0 {
				t.Errorf("batches left %d rows more than one each, %v", spare, err)
			}
			if end == "damaged" {
				if _, err := db.Exec(t.Context(), "drop table view_schema.projector_partial_newest_1"); err != nil {
					t.Fatal(err)
				}
				if _, err := s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrBookkeeping) || !strings.Contains(err.Error(), "projector_partial_newest_1 is gone") {
					t.Error(err)
				}
			}
			if end != "resumed" {
				if _, err := s.Abort(t.Context()); err != nil {
					t.Fatal(err)
				}
				if after := dump(t, db); after != before {
					t.Errorf("the schema has changed:\n%s", after)
				}
				return
			}
			if _, err := db.Exec(t.Context(), "alter table view_schema.newest_1 alter opened type bigint"); err != nil {
				t.Fatal(err)
			}
			if r := online(t, s); !r.Resumed || r.Rows != 1 || r.Events != 40_000 {
				t.Errorf("%+v", r)
			}
			if got := sideTables(t, db); len(got) > 0 {
				t.Errorf("side tables are left: %v", got)
			}
			offline(t, s)
			checkNewest(t, db)
		})
	}
}

func checkNewest(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	var differ int
	if err := db.QueryRow(t.Context(), `
		with wanted as (
			select data ->> 'branch' as branch, count(*) as opened, max(position) as at
			from events where event_type = 'AccountOpened' group by 1)
		select count(*)
		from wanted w full join view_schema.newest n using (branch)
		where (w.opened, w.at, (select aggregate_id from events where position = w.at)) is distinct from (n.opened::bigint, n.at, n.account)`).Scan(&differ); err != nil || differ > 0 {
		t.Errorf("%d branches differ, %v", differ, err)
	}
}

// The last value is that of the highest position, through batches, catch-ups, the cutover, and a replay of all.
func TestLastThroughALife(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	s := open(t, db, newestDefinition())
	customers := bank.NewCustomers(7)
	appendSome := func() {
		t.Helper()
		var events []projections.New
		for len(events) < 300 {
			events = append(events, customers.Act()...)
		}
		for _, e := range events {
			data, err := json.Marshal(e.Data)
			if err != nil {
				t.Fatal(err)
			}
			_, err = db.Exec(t.Context(), "insert into events (aggregate_id, sequence_number, event_type, data) values ($1, $2, $3, $4)",
				uuid.UUID(e.AggregateID.UUID()), e.Sequence, e.Type, data)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	online(t, s)
	for range 2 {
		appendSome()
		if r, err := s.CatchUp(t.Context()); err != nil || r.Events == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	appendSome()
	offline(t, s)
	checkNewest(t, db)
	appendSome()
	if _, err := s.ReplayAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNewest(t, db)
}

// Where the events of a transaction share a position, none is the last.
func TestLastIsRefusedWherePositionsAreShared(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, manyAccounts)
	d := newestDefinition()
	d.Source = eventstore.Mapping{Positions: eventstore.PositionsOfTransactions}
	s := open(t, db, d)
	const want = "column account of table newest has the last value by position, and in this store the events of a transaction share one"
	plan, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(plan.Hazards, func(h viewschema.Hazard) bool {
		return h.Blocks == viewschema.StageOnline && strings.Contains(h.Text, want)
	}) {
		t.Errorf("%+v", plan.Hazards)
	}
	for name, step := range map[string]func(context.Context) (viewschema.Result, error){"migrate online": s.MigrateOnline, "tables create": s.CreateTables} {
		if _, err := step(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the key's index is missing for is found before anything is replayed, and nothing is left.
func TestTotalsWithoutAKey(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, manyAccounts)
	d := newestDefinition()
	delete(d.Views.(fstest.MapFS), "newest.indexes.sql")
	s := open(t, db, d)
	for name, step := range map[string]func(context.Context) (viewschema.Result, error){"migrate online": s.MigrateOnline, "tables create": s.CreateTables} {
		if _, err := step(t.Context()); !errors.Is(err, viewschema.ErrDefinition) || !strings.Contains(err.Error(), `no primary key or unique index has the columns ("branch")`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := sideTables(t, db); len(got) > 0 {
		t.Errorf("side tables are left: %v", got)
	}
}

// A migration that was begun before there were side tables goes on: its batches have other numbers then.
func TestPhasesOfAnOlderMigration(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, emptyStore)
	for _, file := range []string{"0001_migrations.sql", "0002_shared_positions.sql"} {
		text, err := os.ReadFile("bookkeeping/" + file)
		if err != nil {
			t.Fatal(err)
		}
		sql := strings.ReplaceAll(string(text), "%SCHEMA%", "view_schema")
		if file[:4] == "0001" {
			sql = "create schema view_schema; create table view_schema.projector_bookkeeping (number integer primary key);" + sql
		}
		if _, err := db.Exec(t.Context(), sql+fmt.Sprintf("; insert into view_schema.projector_bookkeeping values (%s)", file[:4]), pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	_, err := db.Exec(t.Context(), `
		insert into view_schema.projector_migrations (from_version, to_version, state, fingerprint) values (0, 1, 'building', '{}');
		insert into view_schema.projector_tables (migration_id, table_name, change, built_name) values (1, 'accounts', 'replay', 'accounts_1');
		insert into view_schema.projector_batches (migration_id, number, phase, done_at) values (1, 1, 1, now()), (1, 2, 2, null), (1, 3, 3, null)`,
		pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, db, v1.Definition)
	if _, err := s.Status(t.Context()); err != nil { // which reads the older tables
		t.Error(err)
	}
	if _, err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []replay.Phase{replay.PhaseReplay, replay.PhaseIndex, replay.PhaseAnalyze} {
		var phase replay.Phase
		if err := db.QueryRow(t.Context(), "select phase from view_schema.projector_batches where number = $1", i+1).Scan(&phase); err != nil || phase != want {
			t.Errorf("batch %d: %s, want %s; %v", i+1, phase, want, err)
		}
	}
	if st, err := s.Status(t.Context()); err != nil || st.Migration == nil || st.Migration.Phase != "index" {
		t.Errorf("%+v, %v", st.Migration, err)
	}
}

// Whoever reads the plan sees all SQL that it runs.
func TestPlanSQLOfTotals(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t, emptyStore), newestDefinition())
	plan, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, statement := range s.SQL(plan) {
		files = append(files, statement.File)
	}
	if want := []string{"newest.sql", "newest.indexes.sql", "side table of newest", "merge of newest"}; !slices.Equal(files, want) {
		t.Errorf("%v, want %v", files, want)
	}
}

// The tables of ordered projectors are loaded without their indexes like all others: the plan shows when those are made.
func TestPlanSQLOfOrderedTables(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t, emptyStore), bank.Definition)
	plan, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, statement := range s.SQL(plan) {
		if strings.HasPrefix(statement.File, "transfers") {
			files = append(files, statement.File)
		}
	}
	if want := []string{"transfers.sql", "transfers.indexes.sql"}; !slices.Equal(files, want) {
		t.Errorf("%v, want %v", files, want)
	}
}
