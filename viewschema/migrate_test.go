package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

func TestEveryVersion(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	first := open(t, db, v1.Definition)
	online(t, first)
	offline(t, first)
	verify(t, db, 1)

	second := open(t, db, version2())
	r := online(t, second)
	t.Logf("%+v", r)
	verify(t, db, 1)
	offline(t, second)
	verify(t, db, 2)

	third := open(t, db, bank.Definition)
	online(t, third)
	offline(t, third)
	verify(t, db, 3)
}

// Nothing to do is success, and says so.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, v1.Definition)
	before := dump(t, db)
	if r := online(t, s); !r.Nothing || r.From != 1 || r.To != 1 {
		t.Errorf("online at the target: %+v", r)
	}
	if r := offline(t, s); !r.Nothing {
		t.Errorf("offline at the target: %+v", r)
	}
	if r, err := s.Abort(t.Context()); err != nil || !r.Nothing {
		t.Errorf("abort with nothing under way: %+v, %v", r, err)
	}
	if after := dump(t, db); after != before {
		t.Errorf("the schema has changed:\n%s", after)
	}
}

// An older release must not touch a database that a newer one has migrated.
func TestBelowCurrent(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	second := open(t, db, version2())
	online(t, second)
	offline(t, second)
	before := dump(t, db)
	first := open(t, db, v1.Definition)
	_, planErr := first.Plan(t.Context())
	_, onlineErr := first.MigrateOnline(t.Context())
	_, offlineErr := first.MigrateOffline(t.Context())
	for _, err := range []error{planErr, onlineErr, offlineErr} {
		if !errors.Is(err, viewschema.ErrBelowCurrent) {
			t.Errorf("got %v", err)
		}
	}
	if after := dump(t, db); after != before {
		t.Errorf("the schema has changed:\n%s", after)
	}
}

// Two processes that migrate to the same version at once share the work.
func TestTwoAtOnceShareTheWork(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	results := make(chan viewschema.Result, 2)
	for range 2 {
		go func() {
			own, err := pgxpool.NewWithConfig(t.Context(), db.Config())
			if err != nil {
				t.Error(err)
				results <- viewschema.Result{}
				return
			}
			defer own.Close()
			r, err := open(t, own, version2()).MigrateOnline(t.Context())
			if err != nil {
				t.Error(err)
			}
			results <- r
		}()
	}
	a, b := <-results, <-results
	if a.Resumed == b.Resumed && !a.Nothing && !b.Nothing {
		t.Errorf("one should have begun and the other joined: %+v, %+v", a, b)
	}
	var replayed int64
	if err := db.QueryRow(t.Context(), "select sum(events) from view_schema.projector_batches where migration_id = (select max(id) from view_schema.projector_migrations)").Scan(&replayed); err != nil {
		t.Fatal(err)
	}
	if replayed != 10_000 {
		t.Errorf("10,000 events, but the batches read %d", replayed)
	}
	offline(t, open(t, db, version2()))
	verify(t, db, 2)
}

// A migration to another version, or by changed code, is refused while one is under way, and changes nothing.
func TestOtherMigrationIsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	online(t, open(t, db, version2()))
	before := dump(t, db)

	third := open(t, db, bank.Definition)
	for name, step := range steps(third) {
		if err := step(t.Context()); !errors.Is(err, viewschema.ErrOtherMigration) {
			t.Errorf("%s to version 3: %v", name, err)
		}
	}

	d := version2()
	changed := *bank.Accounts
	changed.Revision = 2
	d.Projectors = []*projections.Projector{&changed, bank.Transactions, bank.Transfers}
	for name, step := range steps(open(t, db, d)) {
		err := step(t.Context())
		if !errors.Is(err, viewschema.ErrChanged) || !strings.Contains(err.Error(), "projector accounts") || !strings.Contains(err.Error(), "migrate abort") {
			t.Errorf("%s with another revision: %v", name, err)
		}
	}
	if after := dump(t, db); after != before {
		t.Errorf("the schema has changed:\n%s", after)
	}
	offline(t, open(t, db, version2())) // goes on as if nothing had been
	verify(t, db, 2)
}

func steps(s *viewschema.Schema) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"online":  func(ctx context.Context) error { _, err := s.MigrateOnline(ctx); return err },
		"catchup": func(ctx context.Context) error { _, err := s.CatchUp(ctx); return err },
		"offline": func(ctx context.Context) error { _, err := s.MigrateOffline(ctx); return err },
	}
}

// Steps out of order say what to type, and change nothing.
func TestWrongState(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	for _, name := range []string{"catchup", "offline"} {
		err := steps(s)[name](t.Context())
		if !errors.Is(err, viewschema.ErrState) || !strings.Contains(err.Error(), "migrate online") {
			t.Errorf("%s before online: %v", name, err)
		}
	}
}

// A bad event stops the rebuild with a message that says which; what was live stays so, and once the event is mended the
// migration goes on.
func TestBadEvents(t *testing.T) {
	t.Parallel()
	const nobody = "00000000-0000-4000-8000-000000000001"
	for name, test := range map[string]struct{ event, want string }{
		"row that does not exist": {
			event: `('` + nobody + `', 1, 'MoneyDeposited', '{"amount": 5}')`,
			want: `replaying (batch \S+|all events) of version 2: projector accounts: event \d+ \(MoneyDeposited, aggregate ` + nobody +
				`, sequence 1\): accounts ` + nobody + `: no such row`,
		},
		"undecodable payload": {
			event: `('` + nobody + `', 1, 'MoneyDeposited', '{"amount": "much"}')`,
			want: `replaying (batch \S+|all events) of version 2: event \d+ \(MoneyDeposited, aggregate ` + nobody +
				`, sequence 1\): decode into bank.Deposited: .*/amount`,
		},
		"projector's error": {
			event: `('` + nobody + `', 1, 'AccountOpened', '{}'), ('` + nobody + `', 2, 'AccountOpened', '{}')`,
			want:  `projector accounts: event \d+ \(AccountOpened, aggregate ` + nobody + `, sequence 2\): accounts ` + nobody + `: .*exists`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			_, err := db.Exec(t.Context(), "insert into events (aggregate_id, sequence_number, event_type, data) values "+test.event)
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, db, version2())
			_, err = s.MigrateOnline(t.Context())
			if err == nil || !regexp.MustCompile(test.want).MatchString(err.Error()) {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
			if _, err := db.Exec(t.Context(), "delete from events where aggregate_id = $1", nobody); err != nil {
				t.Fatal(err)
			}
			verify(t, db, 1)
			if r := online(t, s); !r.Resumed {
				t.Errorf("not resumed: %+v", r)
			}
			offline(t, s)
			verify(t, db, 2)
		})
	}
}

// Abort leaves the database as it was, from each state that a migration can be in.
func TestAbort(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, s *viewschema.Schema, db *pgxpool.Pool){
		"building": func(t *testing.T, s *viewschema.Schema, db *pgxpool.Pool) {
			if _, err := db.Exec(t.Context(), "insert into events (aggregate_id, sequence_number, event_type, data) values (gen_random_uuid(), 1, 'AccountClosed', '{}')"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.MigrateOnline(t.Context()); err == nil {
				t.Fatal("the event of an account that never was should stop the rebuild")
			}
		},
		"built": func(t *testing.T, s *viewschema.Schema, _ *pgxpool.Pool) { online(t, s) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			before := dump(t, db)
			s := open(t, db, version2())
			prepare(t, s, db)
			if dump(t, db) == before {
				t.Fatal("there is nothing to abort")
			}
			if _, err := s.Abort(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := dump(t, db); after != before {
				t.Errorf("the schema has changed:\n%s", after)
			}
			var left int
			err := db.QueryRow(t.Context(), `
				select (select count(*) from view_schema.projector_migrations where state <> 'active') + (select count(*) from view_schema.projector_replayed_ids)
				+ (select count(*) from view_schema.projector_batches b join view_schema.projector_migrations m on m.id = b.migration_id where m.state <> 'active')`).Scan(&left)
			if err != nil || left != 0 {
				t.Errorf("%d rows of bookkeeping are left, %v", left, err)
			}
		})
	}
}

// The cutover renames what is named after the tables, so the new schema is the one that the SQL files describe.
func TestCutoverNames(t *testing.T) {
	t.Parallel()
	migrated := pgtest.Database(t, atVersion1)
	for _, d := range []viewschema.Definition{version2(), bank.Definition} {
		s := open(t, migrated, d)
		online(t, s)
		offline(t, s)
	}
	created := pgtest.Database(t, emptyStore)
	if _, err := open(t, created, bank.Definition).CreateTables(t.Context()); err != nil {
		t.Fatal(err)
	}
	const objects = `
		select string_agg(format('%s %s', c.relkind, c.relname), E'\n' order by c.relname)
		from pg_class c
		where c.relnamespace = 'view_schema'::regnamespace and c.relname not like 'projector%' and c.relname not like '%\_1%' and c.relkind in ('r', 'i', 'S')`
	var a, b string
	if err := migrated.QueryRow(t.Context(), objects).Scan(&a); err != nil {
		t.Fatal(err)
	}
	if err := created.QueryRow(t.Context(), objects).Scan(&b); err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Errorf("migrated:\n%s\ncreated:\n%s", a, b)
	}
}

// Grants and owner of a table are the new table's too.
func TestRightsAreCarriedOver(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	role := fmt.Sprintf("reader_%d", rand.Uint64())
	if _, err := db.Exec(t.Context(), "create role "+role+"; grant select on view_schema.accounts to "+role); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+"; drop role "+role)
		if err != nil {
			t.Error(err)
		}
	})
	s := open(t, db, version2())
	online(t, s)
	offline(t, s)
	var may bool
	if err := db.QueryRow(t.Context(), "select has_table_privilege($1, 'view_schema.accounts', 'select')", role).Scan(&may); err != nil || !may {
		t.Errorf("the reader may read: %t, %v", may, err)
	}
}

// Only tables that a migration made are renamed: the application's own table with the name that we need is left alone.
func TestNamesThatAreTaken(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	if _, err := db.Exec(t.Context(), "create table view_schema.accounts_2 (precious text)"); err != nil {
		t.Fatal(err)
	}
	before := dump(t, db)
	s := open(t, db, version2())
	if _, err := s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "accounts_2") {
		t.Errorf("got %v", err)
	}
	if after := dump(t, db); after != before {
		t.Errorf("the schema has changed:\n%s", after)
	}

	strangers := pgtest.Database(t, filledStore)
	if _, err := strangers.Exec(t.Context(), "create schema view_schema; create table view_schema.accounts (precious text)"); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, strangers, v1.Definition).MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "no migration has made it") {
		t.Errorf("got %v", err)
	}
}

// For development: all tables at once, and everything replayed into them, again and again.
func TestCreateTablesAndReplay(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	s := open(t, db, bank.Definition)
	if _, err := s.ReplayAll(t.Context()); !errors.Is(err, viewschema.ErrState) {
		t.Errorf("replay without tables: %v", err)
	}
	for range 2 {
		if _, err := s.CreateTables(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := s.ReplayAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Events != 10_000 {
			t.Errorf("replayed %d events of 10,000", r.Events)
		}
		verify(t, db, 3)
	}
}

// At or below the cut, events that no projector of the plan handles are not even read.
func TestIrrelevantEventsAreNotRead(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	_, err := db.Exec(t.Context(), "insert into events (aggregate_id, sequence_number, event_type, data) select gen_random_uuid(), 1, 'NewsletterSent', '{}' from generate_series(1, 500)")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, db, version2())
	plan, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Unknown) != 1 || plan.Unknown[0].Type != "NewsletterSent" || plan.Unknown[0].Events != 500 {
		t.Errorf("unknown types: %+v", plan.Unknown)
	}
	if r := online(t, s); r.Events != 10_000 {
		t.Errorf("read %d events", r.Events)
	}
}

// A rebuild that meets no new events writes nothing into the ledger.
func TestLedgerIsEmptyWithoutNewEvents(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m := st.Migration; m.Ledger != 0 || m.Tail != 0 || m.Cut != 10_000 || m.State != replay.Built || m.Changed != "" {
		t.Errorf("%+v", m)
	}
}
