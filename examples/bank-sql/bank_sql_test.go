package banksql_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/config"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A migration by projector.yaml, with events that come during it, ends with the same rows as the Go projectors have.
func TestSameRowsAsGo(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, historyInThreeParts)
	stock := func(args ...string) {
		t.Helper()
		run(t, db, viewschema.Definition{}, append([]string{"--config", "projector.yaml"}, args...), cli.WithConfig(load))
	}
	stock("plan")
	stock("migrate", "online")
	happen(t, db, "second")
	stock("migrate", "catchup")
	happen(t, db, "third")
	stock("migrate", "offline")

	inGo := bank.WithoutTransfers()
	inGo.Schema = "go_views"
	run(t, db, inGo, []string{"migrate", "online"})
	run(t, db, inGo, []string{"migrate", "offline"})
	for _, table := range []string{"accounts", "transactions"} {
		var rows, differ int
		err := db.QueryRow(t.Context(), strings.ReplaceAll(`
			select (select count(*) from go_views.TABLE),
				(select count(*) from (
					(table view_schema.TABLE except all table go_views.TABLE) union all
					(table go_views.TABLE except all table view_schema.TABLE)) d)`, "TABLE", table)).Scan(&rows, &differ)
		if err != nil || rows < 100 || differ != 0 {
			t.Errorf("%s: %d of %d rows differ: %v", table, differ, rows, err)
		}
	}
}

// historyInThreeParts has the events of the bank's first days in the event table, and what happened later in tables beside
// it. Most accounts are in all three.
func historyInThreeParts(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, bank.EventTable); err != nil {
		return err
	}
	if err := bank.Fill(ctx, conn, 9_000, 1); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `
		create table second as select * from events where position > 6000 and position <= 7500;
		create table third as select * from events where position > 7500;
		delete from events where position > 6000`)
	return err
}

// happen appends the events of a later part.
func happen(t *testing.T, db *pgxpool.Pool, part string) {
	t.Helper()
	_, err := db.Exec(t.Context(), fmt.Sprintf(`
		insert into events (aggregate_id, sequence_number, event_type, data, created_at)
		select aggregate_id, sequence_number, event_type, data, created_at from %s order by position`, part))
	if err != nil {
		t.Fatal(err)
	}
}

func load(file string) (cli.Config, error) {
	c, err := config.Load(file)
	return cli.Config(c), err
}

func run(t *testing.T, db *pgxpool.Pool, d viewschema.Definition, args []string, options ...cli.Option) {
	t.Helper()
	var out, errs bytes.Buffer
	process := cli.Process{Args: append([]string{"projector"}, args...), Stdout: &out, Stderr: &errs, Getenv: func(name string) string {
		if name == "DATABASE_URL" {
			return db.Config().ConnString()
		}
		return ""
	}}
	if exit := cli.Run(t.Context(), d, process, options...); exit != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", strings.Join(args, " "), exit, &out, &errs)
	}
}
