package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// bankEvents is how many events there are.
const bankEvents = 300

// What new writes runs as it is: on a table events, and on the tables of each preset.
func TestNewRuns(t *testing.T) {
	t.Parallel()
	for _, preset := range append(presetNames(), "") {
		t.Run(preset, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, bankStore)
			fillLayout(t, db, preset)
			folder := t.TempDir()
			environment := map[string]string{
				"DATABASE_URL":     db.Config().ConnString(),
				"PROJECTOR_CONFIG": filepath.Join(folder, "projector.yaml"),
			}
			for _, args := range []string{"new --preset=" + preset + " " + folder, "plan", "migrate online", "migrate offline"} {
				var out bytes.Buffer
				process := cli.Process{
					Args: append([]string{"projector"}, strings.Fields(args)...), Stdout: &out, Stderr: &out,
					Getenv: func(name string) string { return environment[name] },
				}
				if exit := cli.Run(t.Context(), viewschema.Definition{}, process, options()...); exit != 0 {
					t.Fatalf("%s: exit code %d\n%s", args, exit, &out)
				}
			}
			var events int
			err := db.QueryRow(t.Context(), "select sum(events) from view_schema.activity where first_at <= last_at").Scan(&events)
			if err != nil || events != bankEvents {
				t.Errorf("%d events, %v", events, err)
			}
		})
	}
}

// bankStore has the bank's events, with positions from 101 on, in a schema of their own; bank.batch is what the files of
// eventstore/testdata/presets put into a layout.
func bankStore(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, bank.EventTable+"; alter table events alter position restart with 101"); err != nil {
		return err
	}
	if err := bank.Fill(ctx, conn, bankEvents, 1); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		create schema bank;
		create table bank.events as table events;
		create table bank.bounds as select 101 as lowest, 100 + %d as highest;
		create view bank.batch as table bank.events`, bankEvents))
	return err
}

// fillLayout makes the tables that a preset reads, with the bank's events in them.
func fillLayout(t *testing.T, db *pgxpool.Pool, preset string) {
	t.Helper()
	if preset == "" {
		return
	}
	layout := preset
	if preset == "axon" {
		layout = "axon_jdbc"
	}
	text, err := os.ReadFile("../../eventstore/testdata/presets/" + layout + ".sql")
	if err != nil {
		t.Fatal(err)
	}
	sql, _, _ := strings.Cut(string(text), "\n-- odd")
	tables, fill, _ := strings.Cut(sql, "\n-- fill\n")
	for _, sql := range []string{"drop table public.events", tables, fill} {
		err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), sql)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
