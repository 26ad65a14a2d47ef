package viewschema_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// The rows of an aggregate are made anew in all tables, and no others.
func TestReplayAnAggregate(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	id := scalar[string](t, db, `
		select t.account_id::text
		from view_schema.transactions t join view_schema.accounts a on a.id = t.account_id -- one that was not closed
		group by 1 having count(*) > 2 limit 1`)
	mustExec(t, db, "update view_schema.accounts set owner = 'nobody'")
	mustExec(t, db, "update view_schema.transactions set balance = -1 where seq % 2 = 0")
	mustExec(t, db, "insert into view_schema.transactions select -1, $1, 1000000, 'lie', 1, 1, '', now()", id)
	others := scalar[int64](t, db, "select count(*) from view_schema.accounts where id <> $1", id)

	r, err := open(t, db, v1.Definition).ReplayPart(t.Context(), viewschema.Part{Aggregates: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	if want := scalar[int64](t, db, "select count(*) from events where aggregate_id = $1", id); r.Events != want {
		t.Errorf("%d events were replayed, want %d", r.Events, want)
	}
	if n := scalar[int64](t, db, "select count(*) from view_schema.accounts where owner = 'nobody'"); n != others {
		t.Errorf("%d of %d rows of other aggregates are as they were", n, others)
	}
	mustExec(t, db, "delete from view_schema.transactions where account_id <> $1", id)
	mustExec(t, db, "delete from view_schema.accounts where id <> $1", id)
	mustExec(t, db, "delete from events where aggregate_id <> $1", id)
	verify(t, db, 1)
}

// Rows that several accounts make stay as they are when one of them is replayed.
func TestReplayAnAggregateAmongOthers(t *testing.T) {
	t.Parallel()
	db, s := atVersion2(t, version2())
	id := scalar[string](t, db, "select from_account::text from view_schema.transfers limit 1")
	mustExec(t, db, "update view_schema.accounts set owner = 'nobody' where id = $1", id)
	for _, part := range []viewschema.Part{{Aggregates: []string{id}}, {Projectors: []string{"accounts"}, Aggregates: []string{id}}} {
		if _, err := s.ReplayPart(t.Context(), part); err != nil {
			t.Fatal(err)
		}
		verify(t, db, 2)
	}
	_, err := s.ReplayPart(t.Context(), viewschema.Part{Projectors: []string{"transfers"}, Aggregates: []string{id}})
	if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "in the order of the store") {
		t.Errorf("a projector by position: %v", err)
	}
}

// A part that is named wrongly touches nothing.
func TestReplayRefusesUnknownNames(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	mustExec(t, db, "delete from view_schema.accounts")
	s := open(t, db, v1.Definition)
	_, err := s.ReplayPart(t.Context(), viewschema.Part{Projectors: []string{"accounts", "transaction"}})
	if !errors.Is(err, viewschema.ErrDefinition) || !strings.Contains(err.Error(), "did you mean transactions?") {
		t.Errorf("an unknown projector: %v", err)
	}
	_, err = s.ReplayPart(t.Context(), viewschema.Part{Aggregates: []string{"17"}})
	if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), `"17"`) {
		t.Errorf("an id that is none: %v", err)
	}
	if n := scalar[int64](t, db, "select count(*) from view_schema.accounts"); n != 0 {
		t.Errorf("%d rows were replayed", n)
	}
}

// relations lists what is in the view schema.
func relations(t *testing.T, db *pgxpool.Pool) []string {
	t.Helper()
	return scalar[[]string](t, db, `
		select array_agg(format('%s %s', relkind, relname) order by relname) from pg_class where relnamespace = 'view_schema'::regnamespace`)
}

// A changed SQL file, revision or code is found, and what has not changed stays as it is.
func TestReplayChanged(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	files := fstest.MapFS{}
	for _, name := range []string{"accounts.sql", "accounts.indexes.sql", "transactions.sql", "transactions.indexes.sql"} {
		text, err := fs.ReadFile(v1.Definition.Views, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil {
			files[name] = &fstest.MapFile{Data: text}
		}
	}
	d := v1.Definition
	d.Views = files
	changed := func(code string, only ...string) []string {
		t.Helper()
		r, err := open(t, db, d).ReplayChanged(t.Context(), code, only...)
		if err != nil {
			t.Fatal(err)
		}
		if r.Nothing != (r.Projectors == nil) || r.Nothing != (r.Events == 0) {
			t.Errorf("the result contradicts itself: %+v", r)
		}
		return r.Projectors
	}
	expect := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v were replayed, want %v", what, got, want)
		}
	}
	before := relations(t, db)
	expect("the first time", changed("code 1"), "accounts", "transactions")
	if after := relations(t, db); !slices.Equal(after, before) {
		t.Errorf("what is in the schema has changed from %v to %v", before, after)
	}
	expect("nothing", changed("code 1"))

	files["accounts.sql"].Data = append(files["accounts.sql"].Data, "\nalter table accounts%SUFFIX% add column note text not null default 'none';\n"...)
	mustExec(t, db, "update view_schema.transactions set description = 'as it was'")
	mustExec(t, db, "create materialized view public.rich as select id from view_schema.accounts; create view public.note as select owner from view_schema.accounts")
	if _, err := open(t, db, d).ReplayChanged(t.Context(), "code 1"); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "materialized view public.rich") {
		t.Errorf("a materialized view on the former table: %v", err)
	}
	mustExec(t, db, "drop materialized view public.rich")
	expect("a SQL file", changed("code 1"), "accounts")
	if n := scalar[int64](t, db, "select count(*) from public.note"); n == 0 {
		t.Error("the view shows nothing")
	}
	if n := scalar[int64](t, db, "select count(*) from view_schema.accounts where note = 'none'"); n == 0 {
		t.Error("the table has not got the shape of its file")
	}
	if n := scalar[int64](t, db, "select count(*) from view_schema.transactions where description <> 'as it was'"); n != 0 {
		t.Errorf("%d rows were replayed of a projector that has not changed", n)
	}
	if after := relations(t, db); !slices.Equal(after, before) {
		t.Errorf("what is in the schema has changed from %v to %v", before, after)
	}

	revised := *v1.Accounts
	revised.Revision++
	d.Projectors = []*projections.Projector{&revised, bank.Transactions}
	expect("a revision", changed("code 1"), "accounts")
	expect("the code, of one projector", changed("code 2", "transactions"), "transactions")
	expect("the code", changed("code 2"), "accounts")
	verify(t, db, 1)
}
