package config

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

var update = flag.Bool("update", false, "write testdata and the schema anew")

// unpack writes an archive's files into a folder of their own.
func unpack(t *testing.T, archive *txtar.Archive) (folder string) {
	t.Helper()
	folder = t.TempDir()
	if err := txtar.Write(archive, folder); err != nil {
		t.Fatal(err)
	}
	return folder
}

// Each archive in testdata/errors is a projector.yaml with the files around it, and in "want" what is said about it.
func TestErrors(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal(archives, err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			folder := unpack(t, archive)
			_, err = Load(filepath.Join(folder, "projector.yaml"))
			if !errors.Is(err, viewschema.ErrDefinition) {
				t.Fatalf("got %v, want ErrDefinition", err)
			}
			got := strings.ReplaceAll(err.Error(), folder+string(filepath.Separator), "") + "\n"
			want := &archive.Files[len(archive.Files)-1]
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want.Name != "want" || string(want.Data) != got {
				t.Errorf("got\n%s\nwant\n%s", got, want.Data)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	folder := unpack(t, txtar.Parse([]byte(`
-- projector.yaml --
database: postgres://reader:${PASSWORD}@db/bank
events_database: postgres://events/bank
view_schema: read_models
views: tables
source:
  preset: sequent
  relation: history.event_records
  where: event_type <> 'Noise'
  positions: drawn ahead
projectors:
  bank:
    revision: 2
    tables:
      accounts:
        aggregate: id
        query_file: queries/accounts.sql
      statements:
        aggregate: account
        query: |
          select aggregate_id as account
          from %EVENTS%
versions:
  1:
    replay: [bank]
  2:
    replay: [bank]
    drop: [cards]
  3: {alter: [accounts]}
-- tables/accounts.sql --
create table accounts%SUFFIX% ();
-- tables/accounts_3.sql --
alter table accounts add balance bigint;
-- tables/statements.sql --
create table statements%SUFFIX% ();
-- queries/accounts.sql --
select 1 from %EVENTS%
`)))
	name := filepath.Join(folder, "projector.yaml")
	got, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.ReadFile(got.Definition.Views, "accounts_3.sql"); err != nil {
		t.Error(err)
	}
	got.Definition.Views = nil
	want := Config{
		Definition: viewschema.Definition{
			Source: eventstore.Mapping{
				Preset: "sequent", Relation: "history.event_records", Where: "event_type <> 'Noise'", Positions: eventstore.PositionsDrawnAhead,
			},
			Projectors: []*projections.Projector{{Name: "bank", Revision: 2, Tables: []projections.Table{
				&projections.SQLTable{
					Name: "accounts", Aggregate: "id",
					Query: "select 1 from %EVENTS%\n", File: filepath.Join(folder, "queries", "accounts.sql"),
				},
				&projections.SQLTable{
					Name: "statements", Aggregate: "account",
					Query: "select aggregate_id as account\nfrom %EVENTS%\n", File: name + ":19, query of statements",
				},
			}}},
			Versions: projector.Versions{
				1: {projector.Replay(projector.Named("bank"))},
				2: {projector.Replay(projector.Named("bank")), projector.Drop(projector.Named("cards"))},
				3: {projector.Alter(projector.Named("accounts"))},
			},
			Schema: "read_models",
		},
		Database:       "postgres://reader:${PASSWORD}@db/bank",
		EventsDatabase: "postgres://events/bank",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	if _, err := Load(filepath.Join(t.TempDir(), "projector.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Whatever a file is, it is read or refused.
func FuzzLoad(f *testing.F) {
	archives, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "projector.yaml")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(name); err != nil && !errors.Is(err, viewschema.ErrDefinition) {
			t.Error(err)
		}
	})
}
