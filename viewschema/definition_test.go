package viewschema_test

import (
	"errors"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/sql/views"
	"github.com/viewschema/projector/viewschema"
)

// files are the bank's SQL files, some replaced; an empty text takes one away.
func files(replaced map[string]string) fs.FS {
	all := fstest.MapFS{}
	names, err := fs.Glob(views.FS, "*.sql")
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(views.FS, name)
		if err != nil {
			panic(err)
		}
		all[name] = &fstest.MapFile{Data: text}
	}
	for name, text := range replaced {
		all[name] = &fstest.MapFile{Data: []byte(text)}
		if text == "" {
			delete(all, name)
		}
	}
	return all
}

// What can be found in a definition without a database is found, all at once, and named with its place.
func TestDefinitionErrors(t *testing.T) {
	t.Parallel()
	const good = "create table accounts%SUFFIX% (id uuid);"
	for name, test := range map[string]struct {
		files    map[string]string
		versions projector.Versions
		want     []string
	}{
		"file missing":           {files: map[string]string{"accounts.sql": ""}, want: []string{"accounts.sql is missing", "projector accounts"}},
		"no suffix":              {files: map[string]string{"accounts.sql": "create table accounts (id uuid)"}, want: []string{"accounts.sql: has no %SUFFIX%", "accounts.sql:1: creates accounts without %SUFFIX%"}},
		"suffix in comment only": {files: map[string]string{"accounts.sql": "-- %SUFFIX%\ncreate table accounts (id uuid)"}, want: []string{"has no %SUFFIX%"}},
		"another table":          {files: map[string]string{"accounts.sql": "\ncreate table account%SUFFIX% (id uuid)"}, want: []string{"accounts.sql:2: creates table account%SUFFIX%, but the table of projector accounts is accounts%SUFFIX%"}},
		"no table":               {files: map[string]string{"accounts.sql": "select 'create table accounts%SUFFIX%', 1 as a%SUFFIX%"}, want: []string{`has no "create table accounts%SUFFIX%"`}},
		"commit":                 {files: map[string]string{"accounts.sql": good + "\n-- so\n commit;"}, want: []string{`accounts.sql:3: "commit;"`}},
		"end":                    {files: map[string]string{"accounts.sql": good + "\nEND"}, want: []string{`accounts.sql:2: "END"`}},
		"copy":                   {files: map[string]string{"accounts.sql": good + "copy accounts%SUFFIX% from stdin;"}, want: []string{"there is no input"}},
		"unlogged":               {files: map[string]string{"accounts.sql": "\ncreate unlogged table accounts%SUFFIX% (id uuid)"}, want: []string{`accounts.sql:2: "create unlogged table accounts%SUFFIX% (id uuid)": a crash of the server empties what is unlogged`}},
		"set unlogged":           {files: map[string]string{"accounts.sql": good + "\nalter table accounts%SUFFIX%\n\tset unlogged"}, want: []string{`accounts.sql:2: "alter table accounts%SUFFIX%": a crash`}},
		"concurrently":           {files: map[string]string{"accounts.indexes.sql": "create index concurrently a%SUFFIX% on accounts%SUFFIX% (id)"}, want: []string{"concurrently"}},
		"index without suffix":   {files: map[string]string{"accounts.indexes.sql": "create index by_owner on accounts%SUFFIX% (owner)"}, want: []string{"accounts.indexes.sql:1: index by_owner has no %SUFFIX%"}},
		"name too long":          {files: map[string]string{"accounts.indexes.sql": "create index " + strings.Repeat("a", 62) + "%SUFFIX% on accounts%SUFFIX% (id)"}, want: []string{"64 bytes"}},
		"unknown projector":      {versions: projector.Versions{1: {projector.Replay(projector.Named("acounts"))}}, want: []string{"version 1 replays projector acounts", "did you mean accounts?"}},
		"unknown table":          {versions: projector.Versions{1: {projector.Replay(bank.Accounts, bank.Transactions)}, 2: {projector.Alter(projector.Named("transaction"))}}, want: []string{"version 2 alters table transaction", "did you mean transactions?"}},
		"drop of an owned table": {versions: projector.Versions{1: {projector.Drop(projector.Named("accounts"))}}, want: []string{"drops table accounts, which projector accounts still owns"}},
		"gap":                    {versions: projector.Versions{1: {projector.Replay(bank.Accounts)}, 3: {projector.Replay(bank.Accounts)}}, want: []string{"2 is missing before 3"}},
		"several":                {files: map[string]string{"accounts.sql": "", "transactions.sql": ""}, want: []string{"accounts.sql is missing", "transactions.sql is missing"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := bank.Definition
			d.Views = files(test.files)
			if test.versions != nil {
				d.Versions = test.versions
			}
			_, err := viewschema.Open(nil, d, viewschema.Options{})
			if !errors.Is(err, viewschema.ErrDefinition) {
				t.Fatalf("got %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
		})
	}
}

// Files that look dangerous and are not.
func TestDefinitionAccepts(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"words in comments and literals": "/* commit; */ create table accounts%SUFFIX% (note text default 'commit;rollback'); comment on table accounts%SUFFIX% is $$ ; commit; $$;",
		"escaped quote":                  `create table accounts%SUFFIX% (note text default E'it\'s; commit; ');`,
		"quoted name":                    `create table "accounts%SUFFIX%" (id uuid);`,
		"function body":                  "create table accounts%SUFFIX% (id uuid); create function f%SUFFIX%() returns int language sql begin atomic select 1; end;",
		"index that names itself":        "create table accounts%SUFFIX% (id uuid); create index on accounts%SUFFIX% (id);",
	} {
		d := bank.Definition
		d.Views = files(map[string]string{"accounts.sql": text})
		if _, err := viewschema.Open(nil, d, viewschema.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What PostgreSQL refuses is shown with file, line and a caret, and leaves nothing behind.
func TestErrorsInFiles(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"syntax": {
			files: map[string]string{"accounts.sql": "-- ü\ncreate table accounts%SUFFIX% (\n\tid uuid,\n\towner txt\n);"},
			want:  "accounts.sql:4:8: ERROR: type \"txt\" does not exist (SQLSTATE 42704)\n    \towner txt\n    \t      ^",
		},
		"column missing": {
			files: map[string]string{"accounts.sql": "create table accounts%SUFFIX% (id uuid, owner text)"},
			want:  "iban",
		},
		"other schema": {
			files: map[string]string{"accounts.sql": "create table public.accounts%SUFFIX% (id uuid)"},
			want:  `there is no table "view_schema"."accounts_2"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			before := dump(t, db)
			d := version2()
			d.Views = files(test.files)
			_, err := open(t, db, d).MigrateOnline(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got\n%v\nwant\n%s", err, test.want)
			}
			if after := dump(t, db); after != before {
				t.Errorf("the schema has changed:\n%s", after)
			}
		})
	}
}

// A table that several versions replay is replayed once; an alter is left out if the table is made anew or dropped.
func TestPlanReduction(t *testing.T) {
	t.Parallel()
	replayA, replayT := projector.Replay(bank.Accounts), projector.Replay(bank.Transactions)
	alter := func(table string) projector.Change { return projector.Alter(projector.Named(table)) }
	old := projector.Named("old")
	v := projector.Versions{
		1: {replayA, replayT},
		2: {alter("accounts"), alter("transactions"), projector.Alter(old)},
		3: {replayA, alter("transactions")},
		4: {replayA, projector.Drop(old)},
		5: {alter("accounts")},
	}
	d := bank.WithoutTransfers()
	d.Views = files(map[string]string{
		"transactions_2.sql": "alter table transactions add a int", "transactions_3.sql": "alter table transactions add b int",
		"accounts_5.sql": "alter table accounts add a int",
	})
	for _, test := range []struct {
		from, to int
		tables   map[string]string // what happens, and the alters' files
		omitted  int
	}{
		{from: 0, to: 5, tables: map[string]string{"accounts": "replay", "branch_totals": "replay", "transactions": "replay", "old": "drop"}, omitted: 7},
		{from: 1, to: 5, tables: map[string]string{"accounts": "replay", "branch_totals": "replay", "transactions": "alter transactions_2.sql transactions_3.sql", "old": "drop"}, omitted: 4},
		{from: 4, to: 5, tables: map[string]string{"accounts": "alter accounts_5.sql"}},
		{from: 5, to: 5, tables: map[string]string{}},
	} {
		d.Versions = v.UpTo(test.to)
		plan, err := viewschema.Reduce(d, test.from)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, table := range plan.Tables {
			got[table.Table] = string(table.Kind)
			if table.Kind == projector.KindAlter {
				got[table.Table] += " " + strings.Join(table.Files, " ")
			}
		}
		if !maps.Equal(got, test.tables) || len(plan.Omitted) != test.omitted {
			t.Errorf("from %d to %d: %v, omitted %q", test.from, test.to, got, plan.Omitted)
		}
	}
}

// A projector whose tables are another's is found by the projections, and reported like all else.
func TestTwoOwners(t *testing.T) {
	t.Parallel()
	d := bank.Definition
	twin := *bank.Accounts
	twin.Name = "twin"
	d.Projectors = []*projections.Projector{bank.Accounts, bank.Transactions, &twin}
	if _, err := viewschema.Open(nil, d, viewschema.Options{}); !errors.Is(err, viewschema.ErrDefinition) || !strings.Contains(err.Error(), "twin") {
		t.Errorf("got %v", err)
	}
}
