package viewschema_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// Bookkeeping that somebody has edited is said, not guessed at, and nothing is touched.
func TestDamagedBookkeeping(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ damage, want string }{
		"built table dropped":         {"drop table view_schema.accounts_2", "accounts_2 is gone"},
		"batch taken back":            {"update view_schema.projector_batches set done_at = null where number = 1", "batches are not done"},
		"another version made active": {"update view_schema.projector_migrations set to_version = 7 where state = 'active'", "version 7 is current"},
		"table of bookkeeping gone":   {"drop table view_schema.projector_batches", "projector_batches"},
		"bookkeeping of a newer one":  {"insert into view_schema.projector_bookkeeping values (99)", "a newer Projector"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			online(t, open(t, db, version2()))
			if _, err := db.Exec(t.Context(), test.damage); err != nil {
				t.Fatal(err)
			}
			before := dump(t, db)
			for name, step := range steps(open(t, db, version2())) {
				err := step(t.Context())
				ahead := errors.Is(err, viewschema.ErrBelowCurrent) // a current version of 7 is also that
				if !ahead && (!errors.Is(err, viewschema.ErrBookkeeping) || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if after := dump(t, db); after != before {
				t.Errorf("the schema has changed:\n%s", after)
			}
		})
	}
}

// Processes that begin at the same moment make the bookkeeping tables once, and none of them fails.
func TestInitAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, emptyStore)
	s := open(t, db, version2())
	pending, err := s.PendingInit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	var mu sync.Mutex
	var processes sync.WaitGroup
	for range 4 {
		processes.Go(func() {
			applied, err := s.Init(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, applied...)
		})
	}
	processes.Wait()
	slices.Sort(all)
	if !slices.Equal(all, pending) {
		t.Errorf("applied %v, want %v", all, pending)
	}
}

// A newer Projector has one file more. What writes bookkeeping applies it first, or says that it is pending if the operator
// wants to do so; what only looks leaves it alone.
func TestBookkeepingIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		manual bool
		want   string
	}{"automatically": {false, ""}, "by hand": {true, "9999_more.sql; type: init"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			newer := func(d viewschema.Definition) *viewschema.Schema {
				s, err := viewschema.Open(db, d, viewschema.Options{ManualInit: test.manual})
				if err == nil {
					s, err = viewschema.WithBookkeeping(s, "9999_more.sql", "alter table %SCHEMA%.projector_migrations add column more text")
				}
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := newer(version2())
			if _, err := s.Plan(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := s.Status(t.Context()); err != nil {
				t.Error(err)
			}
			if pending, err := s.PendingInit(t.Context()); err != nil || !slices.Equal(pending, []string{"9999_more.sql"}) {
				t.Errorf("pending are %v, %v", pending, err)
			}
			online(t, open(t, db, version2()))
			before := dump(t, db)
			for step, run := range map[string]func() error{
				"catch-up": func() error { _, err := s.CatchUp(t.Context()); return err },
				"cutover":  func() error { _, err := s.MigrateOffline(t.Context()); return err },
				"abort":    func() error { _, err := s.Abort(t.Context()); return err },
				"online":   func() error { _, err := s.MigrateOnline(t.Context()); return err },
				"tables":   func() error { _, err := s.CreateTables(t.Context()); return err },
				"replay":   func() error { _, err := s.ReplayAll(t.Context()); return err },
			} {
				if !test.manual && step != "catch-up" {
					continue
				}
				err := run()
				if test.manual && (!errors.Is(err, viewschema.ErrInit) || !strings.Contains(err.Error(), test.want)) || !test.manual && err != nil {
					t.Errorf("%s: %v", step, err)
				}
			}
			if after := dump(t, db); test.manual && after != before {
				t.Errorf("the schema has changed:\n%s", after)
			}
			if test.manual {
				if _, err := s.Init(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if pending, err := s.PendingInit(t.Context()); err != nil || len(pending) > 0 {
				t.Errorf("pending are %v, %v", pending, err)
			}
			if _, err := s.MigrateOffline(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
