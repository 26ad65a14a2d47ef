package viewschema_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// A standby that is promoted in the middle of a migration is read no more, neither by the process at work nor by the next one, which
// goes on without it. What was appended there is not in the tables.
func TestStandbyPromoted(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, &watcher{}, &watcher{})
	ctx := pg.WithFault(t.Context(), func(m pg.Moment, p pg.Point) {
		if m == pg.After && p == pg.PointBegin {
			r.replayed(t)
			mustExec(t, r.standby, "select pg_promote()")
			mustExec(t, r.standby, openAccount)
		}
	})
	if _, err := r.MigrateOnline(ctx); !errors.Is(err, viewschema.ErrNoStandby) {
		t.Errorf("%v", err)
	}
	st, err := r.Status(t.Context())
	if err != nil || st.Standby.Recovers {
		t.Errorf("status: %+v, %v", st.Standby, err)
	}
	found, err := r.Doctor(t.Context())
	if err != nil || finding(t, found, "it was promoted").Severity != viewschema.SeverityMend {
		t.Error(err)
	}
	if _, _, err := viewschema.Locate(t.Context(), r.primary, r.standby); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "timeline 2") {
		t.Errorf("%v", err)
	}
	if _, err := apart(t, r.primary, r.standby, viewschema.Options{}).MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrChanged) {
		t.Errorf("as another database: %v", err)
	}
	for _, now := range []*pgxpool.Pool{r.primary, r.standby} { // whoever is the primary now has the migration, too
		if online := online(t, open(t, now, version2())); !online.Resumed {
			t.Errorf("%+v", online)
		}
		offline(t, open(t, now, version2()))
		verify(t, now, 2, "accounts", "branch_totals", "transfers") // nobody projects live
	}
}

// The same of events on another server than the view tables, whose standby is all that can be asked. It has no cut, so all that it had
// is in the ledger.
func TestStandbyElsewherePromoted(t *testing.T) {
	t.Parallel()
	_, standbys := pgtest.Replicated(t, filledStore, nil)
	events, views := pgtest.Pool(t, standbys[0]), pgtest.Database(t, nil)
	_, standby, err := viewschema.Locate(t.Context(), views, events)
	if err != nil || standby != nil {
		t.Fatalf("a standby of another server is taken for one of this: %v", err)
	}
	s, err := viewschema.Open(views, v1.Definition, viewschema.Options{Events: events}) // whose projectors need no cut
	if err != nil {
		t.Fatal(err)
	}
	ctx := pg.WithFault(t.Context(), func(m pg.Moment, p pg.Point) {
		if m == pg.After && p == pg.PointBegin {
			mustExec(t, events, "select pg_promote()")
			mustExec(t, events, openAccount)
		}
	})
	if _, err := s.MigrateOnline(ctx); !errors.Is(err, viewschema.ErrNoStandby) {
		t.Errorf("%v", err)
	}
	if _, err := s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrChanged) || !strings.Contains(err.Error(), "timeline") {
		t.Errorf("%v", err)
	}
}

// A standby of the primary before, which has not come along with the one that was promoted, is found out: both have positions in the WAL
// beyond the place where their ways part.
func TestStandbyOfAnother(t *testing.T) {
	t.Parallel()
	url, standbys := pgtest.Replicated(t, atVersion1, nil, nil)
	former, promoted, left := pgtest.Pool(t, url), pgtest.Pool(t, standbys[0]), pgtest.Pool(t, standbys[1])
	mustExec(t, promoted, "select pg_promote()")
	mustExec(t, former, "create table public.much as select generate_series(1, 300000)")
	_, standby, err := viewschema.Locate(t.Context(), promoted, left)
	if err != nil || standby != left {
		t.Fatal(err)
	}
	s, err := viewschema.Open(promoted, version2(), viewschema.Options{Standby: left})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrNoStandby) {
		t.Errorf("%v", err)
	}
}
