package main

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	urfave "github.com/urfave/cli/v2"
)

func newCommand() *urfave.Command {
	return &urfave.Command{
		Name:      "new",
		Usage:     "write a projector.yaml to begin with, and its SQL files",
		ArgsUsage: "[folder]",
		Flags: []urfave.Flag{&urfave.StringFlag{
			Name: "preset", DefaultText: "a table events",
			Usage: "whose event tables: " + strings.Join(presetNames(), ", "),
		}},
		Action: func(c *urfave.Context) error {
			if c.Bool("json") {
				return urfave.Exit("new has no --json", exitUsage)
			}
			folder := cmp.Or(c.Args().First(), ".")
			if c.NArg() > 1 || strings.HasPrefix(folder, "-") {
				const text = "new takes one folder, and flags go first: %s new --preset sequent folder"
				return urfave.Exit(fmt.Sprintf(text, c.App.Name), exitUsage)
			}
			i := slices.IndexFunc(starters, func(s starter) bool { return s.Preset == c.String("preset") })
			if i < 0 {
				text := fmt.Sprintf("--preset %s: use one of: %s", c.String("preset"), strings.Join(presetNames(), ", "))
				return urfave.Exit(text, exitUsage)
			}
			written, err := starters[i].write(folder)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "written, to be read and changed:\n  %s\n\nnext:\n", strings.Join(written, "\n  "))
			if folder != "." {
				fmt.Fprintf(c.App.Writer, "  cd %s\n", folder)
			}
			fmt.Fprintf(c.App.Writer, "  export DATABASE_URL=postgres://user@localhost:5432/database\n  %s plan\n", c.App.Name)
			return nil
		},
	}
}

// starter is what is particular to an event store in the files that a user begins with.
type starter struct {
	Preset string   // empty: a table events
	Store  string   // where the events are
	ID     string   // type of an aggregate's id
	Event  string   // what the type of an event looks like
	Source []string // lines below "source:", or comments
}

var starters = []starter{
	{
		Store: "in a table \"events\"", ID: "uuid", Event: "AccountOpened",
		Source: []string{
			"# What is taken if nothing else is said. A column can also be an SQL expression in parentheses.",
			"relation: events",
			"position: position",
			"aggregate_id: aggregate_id",
			"sequence: sequence_number",
			"type: event_type",
			"data: data",
			"time: created_at",
			"# metadata: metadata",
			"# aggregate_type: aggregate_type",
		},
	},
	{
		Preset: "sequent", Store: "of Sequent, up to version 7", ID: "uuid", Event: "Account::Opened",
		Source: []string{"# Before Sequent 6, aggregate ids are text: then the tables in sql/views need text, too."},
	},
	{
		Preset: "sequent8", Store: "of Sequent, from version 8 on", ID: "uuid", Event: "Account::Opened",
		Source: []string{
			"# Events have no number of their own: all events of a transaction share a position. Tell them apart by",
			"# aggregate_id and sequence_number.",
		},
	},
	{
		Preset: "axon", Store: "of Axon 3 and 4", ID: "text", Event: "com.example.AccountOpened",
		Source: []string{"# Events have to be stored as JSON (Axon's JacksonSerializer)."},
	},
	{
		Preset: "svrnty", Store: "of Svrnty", ID: "text", Event: "AccountOpenedEvent",
		Source: []string{"# A retention policy that deletes events also deletes them from the tables that are built anew."},
	},
	{
		Preset: "marten", Store: "of Marten", ID: "uuid", Event: "account_opened",
		Source: []string{"# If streams are identified by strings, the tables in sql/views need text instead of uuid."},
	},
	{
		Preset: "messagedb", Store: "of Message DB", ID: "text", Event: "AccountOpened",
		Source: []string{
			"# Commands, positions and snapshots are left out. To read a single category instead:",
			"# where: e.stream_name like 'account-%'",
		},
	},
	{
		Preset: "emmett", Store: "of Emmett", ID: "text", Event: "AccountOpened",
	},
	{
		Preset: "eventstore", Store: "of Commanded's EventStore", ID: "text", Event: "Elixir.Bank.AccountOpened",
		Source: []string{"# Events have to be stored as JSON (its JsonSerializer or JsonbSerializer)."},
	},
	{
		Preset: "rails_event_store", Store: "of Rails Event Store, from version 2 on", ID: "text", Event: "Ordering::OrderPlaced",
		Source: []string{"# Events have to be stored as JSON, not as YAML."},
	},
	{
		Preset: "eventsourcing", Store: "of Python's eventsourcing, from version 9 on", ID: "uuid", Event: "bank.model:Account.Opened",
		Source: []string{
			"# The table is found by its columns. If there are several, name that of your application:",
			"# relation: bankaccounts_events",
		},
	},
}

func presetNames() (names []string) {
	for _, s := range starters {
		if s.Preset != "" {
			names = append(names, s.Preset)
		}
	}
	return names
}

//go:embed starter
var starterFiles embed.FS

// write makes the files below the folder. It never changes one that is there: then nothing is written.
func (s starter) write(folder string) (names []string, err error) {
	texts := map[string][]byte{}
	var taken []string
	err = fs.WalkDir(starterFiles, "starter", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		var text bytes.Buffer
		if err := template.Must(template.ParseFS(starterFiles, path)).Execute(&text, s); err != nil {
			return err
		}
		name := filepath.Join(folder, filepath.FromSlash(strings.TrimPrefix(path, "starter/")))
		names, texts[name] = append(names, name), text.Bytes()
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			taken = append(taken, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if taken != nil {
		return nil, urfave.Exit(fmt.Sprintf("nothing was written, since it exists: %s", strings.Join(taken, ", ")), exitUsage)
	}
	for _, name := range names {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return nil, err
		}
		if err := writeNew(name, texts[name]); err != nil {
			return nil, err
		}
	}
	return names, nil
}

func writeNew(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
