package viewschema_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// finding looks for one by what it says.
func finding(t *testing.T, list []viewschema.Finding, text string) (f viewschema.Finding) {
	t.Helper()
	for _, f := range list {
		if strings.Contains(f.Text, text) {
			return f
		}
	}
	t.Errorf("no finding says %q; there are %+v", text, list)
	return f
}

// What is in the way of a migration is found, with what to do about it; and that nothing is in the way is said, too.
func TestDoctor(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	writer, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback(t.Context())
	slot, prepared := fmt.Sprintf("slot_%d", rand.Uint64()), fmt.Sprintf("prepared_%d", rand.Uint64())
	mustExec(t, db, "select pg_create_physical_replication_slot($1, true)", slot)
	t.Cleanup(func() {
		if _, err := db.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot($1)", slot); err != nil {
			t.Error(err)
		}
	})
	if _, err := writer.Exec(t.Context(), "insert into events (aggregate_id, sequence_number, event_type, data) values (gen_random_uuid(), 1, 'AccountOpened', '{}')"); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "create view rich as select id from view_schema.accounts; create materialized view public.sums as select sum(balance) from view_schema.accounts")
	conn, err := pgx.Connect(t.Context(), db.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "begin; create table left_behind (id int); prepare transaction '"+prepared+"'", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := db.Exec(context.WithoutCancel(t.Context()), "rollback prepared '"+prepared+"'"); err != nil {
			t.Error(err)
		}
	})

	found, err := open(t, db, version2()).Examine(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]viewschema.Severity{
		"this blocks migrate offline: materialized view public.sums": viewschema.SeverityMend,
		"and has written: if events, migrate online waits":           viewschema.SeverityMend,
		"prepared transaction '" + prepared:                          viewschema.SeverityMend,
		"replication slot " + slot + ", which nobody reads":          viewschema.SeverityMend,
		"fsync is off": viewschema.SeverityMend, // of the tests' server
	} {
		if f := finding(t, found, text); f.Severity != want {
			t.Errorf("%q is %s, want %s", text, f.Severity, want)
		}
	}
	if f := finding(t, found, "the new tables need"); f.Severity == viewschema.SeverityMend { // whether it is known what is free or not
		t.Errorf("%+v", f)
	}
	if f := finding(t, found, "prepared transaction"); f.Remedy != "commit prepared '"+prepared+"', or rollback prepared '"+prepared+"'" {
		t.Errorf("the remedy is %s", f.Remedy)
	}
}

// A role that lacks rights is told which, before it begins; with them, nothing is in its way.
func TestDoctorOnRights(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	role := fmt.Sprintf("migrator_%d", rand.Uint64())
	mustExec(t, db, "create role "+role+" login; grant select, update on events to "+role+"; grant select on sequence events_position_seq to "+role)
	t.Cleanup(func() {
		if _, err := db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	config := db.Config()
	config.ConnConfig.User = role
	ours, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	s := open(t, ours, v1.Definition)
	found, err := s.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := finding(t, found, "may not create schema view_schema in this database")
	if f.Severity != viewschema.SeverityMend {
		t.Errorf("got %+v", f)
	}
	mustExec(t, db, f.Remedy)
	mustExec(t, db, finding(t, found, "sees of other roles' sessions").Remedy)
	if found, err = s.Doctor(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.About == "rights" && f.Severity != viewschema.SeverityFit {
			t.Errorf("with the rights: %+v", f)
		}
	}
	online(t, s)
	offline(t, s)
}
