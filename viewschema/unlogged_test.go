package viewschema_test

import (
	"errors"
	"strings"
	"testing"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// A table that is unlogged is never filled, goes live or comes back: a crash would empty it without an error.
func TestUnloggedTablesAreRefused(t *testing.T) {
	t.Parallel()
	const columns = "(id uuid, owner text, iban text, currency text, branch text, balance bigint, version bigint, opened_at timestamptz)"
	for name, text := range map[string]string{
		"in a body": "create table accounts%SUFFIX% " + columns + "; do $$ begin alter table accounts%SUFFIX% set unlogged; end $$",
		"partition": "create table accounts%SUFFIX% " + columns + " partition by hash (id); do $$ begin " +
			"create unlogged table accounts_part%SUFFIX% partition of accounts%SUFFIX% for values with (modulus 1, remainder 0); end $$",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			d := version2()
			d.Views = files(map[string]string{"accounts.sql": text, "accounts.indexes.sql": "create index accounts%SUFFIX%_iban on accounts%SUFFIX% (iban)"})
			_, err := open(t, db, d).MigrateOnline(t.Context())
			if !errors.Is(err, viewschema.ErrDefinition) || !strings.Contains(err.Error(), "unlogged: a crash of the server empties it") {
				t.Error(err)
			}
		})
	}
	t.Run("by hand", func(t *testing.T) {
		t.Parallel()
		db := pgtest.Database(t, atVersion1)
		s := open(t, db, version2())
		online(t, s)
		refused := func(table string, step func() error) {
			t.Helper()
			mustExec(t, db, "alter table view_schema."+table+" set unlogged")
			err := step()
			remedy := "alter table view_schema." + table + " set logged"
			if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), remedy) {
				t.Fatal(err)
			}
			mustExec(t, db, remedy)
		}
		cutOver := func() error { _, err := s.MigrateOffline(t.Context()); return err }
		refused("accounts_2", cutOver)
		refused("projector_batches", func() error { _, err := s.MigrateOnline(t.Context()); return err })
		refused("projector_replayed_ids", func() error { _, err := s.CatchUp(t.Context()); return err })
		refused("projector_replayed_ids", cutOver)
		offline(t, s)
		first := open(t, db, v1.Definition)
		refused("accounts_1", func() error { _, err := first.Rollback(t.Context()); return err })
		if scalar[bool](t, db, "select exists (select from view_schema.projector_migrations where takes_back is not null)") {
			t.Error("the rollback has begun")
		}
		if _, err := first.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
