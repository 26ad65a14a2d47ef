package cli_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"
	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// TestScripts runs testdata/script: whole lives of a view schema, as an operator types them, each on a database of its own
// with the bank's events in it, and an empty one beside it. Beside testscript's own commands there are v1, v2 and v3, the bank's
// releases, file, which reads the definition from one, axon, whose events are in a table of Axon, clock, whose owners are made of
// the time, query, whose table a query makes, and p1 and p2, whose view tables are partitioned; exits, which runs one of them and wants an exit code; sql; hold, which keeps
// the statement's transaction open until the script ends; and replicated, which gives it a server with a hot standby, STANDBY_URL.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DATABASE_URL", pgtest.DatabaseURL(env.T().(testing.TB), filledStore))
			env.Values[scriptTest{}] = env.T()
			env.Setenv("OTHER_URL", pgtest.DatabaseURL(env.T().(testing.TB), nil))
			return nil
		},
		Cmds: map[string]command{
			"v1":    release("v1"),
			"v2":    release("v2"),
			"v3":    release("v3"),
			"file":  release("file"),
			"axon":  release("axon"),
			"clock": release("clock"),
			"query": release("query"),
			"p1":    release("p1"),
			"p2":    release("p2"),
			"exits": exits,
			"sql":   sql,
			"hold":  hold,

			"replicated": replicated,
		},
	})
}

func filledStore(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, bank.EventTable); err != nil {
		return err
	}
	return bank.Fill(ctx, conn, 2_000, 1)
}

type command = func(ts *testscript.TestScript, neg bool, args []string)

// release makes the command of a release that is wanted to succeed.
func release(name string) command {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("say which exit code is wanted: exits 1 %s …", name)
		}
		run(ts, name, args, 0)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code release arguments…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	run(ts, args[1], args[2:], want)
}

func run(ts *testscript.TestScript, name string, args []string, want int) {
	d := bank.Definition
	switch name {
	case "v1":
		d = v1.Definition
	case "v2":
		d.Versions = d.Versions.UpTo(2)
	case "clock":
		d = v1.Definition
		d.Events = append([]projections.EventType{projections.Decode("AccountOpened", func(_ []byte, p *bank.Opened) error {
			p.Owner = fmt.Sprint("at ", time.Now())
			return nil
		})}, bank.Events[1:]...)
	case "query":
		owners := &projections.Projector{Name: "owners", Tables: []projections.Table{&projections.SQLTable{
			Name: "owners", Aggregate: "id", Query: "select aggregate_id as id from %EVENTS% group by 1",
		}}}
		d = viewschema.Definition{
			Projectors: []*projections.Projector{owners}, Versions: projector.Versions{1: {projector.Replay(owners)}},
			Views: fstest.MapFS{"owners.sql": {Data: []byte("create table owners%SUFFIX% (id uuid primary key)")}},
		}
	case "p1", "p2":
		d = v1.Definition
		d.Versions = projector.Versions{1: d.Versions[1], 2: d.Versions[1]}
		if name == "p1" {
			d.Versions = d.Versions.UpTo(1)
		}
		d.Views = partitionedViews
	case "axon":
		d.Source = eventstore.Mapping{Preset: "axon"}
	}
	process := cli.Process{Args: append([]string{"bank"}, args...), Stdout: ts.Stdout(), Stderr: ts.Stderr(), Getenv: ts.Getenv}
	extra := &urfave.Command{
		Name:  "greet",
		Flags: []urfave.Flag{&urfave.StringFlag{Name: "who"}},
		Action: func(c *urfave.Context) error {
			if c.String("who") == "nobody" {
				return urfave.Exit("there is nobody", 7)
			}
			_, err := c.App.Writer.Write([]byte("hello " + c.String("who") + "\n"))
			return err
		},
	}
	options := []cli.Option{cli.WithName("bank"), cli.WithVersion("1.2.3"), cli.WithCommand(extra)}
	if name == "file" { // version 1, with the database's URL in a file
		d = viewschema.Definition{}
		options = append(options, cli.WithConfig(fromFile))
	}
	if got := cli.Run(context.Background(), d, process, options...); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// partitionedViews are the tables of version 1, the accounts by hash, and the transactions by range.
var partitionedViews = fstest.MapFS{
	"accounts.sql": {Data: []byte(`create table accounts%SUFFIX% (id uuid primary key, owner text not null, balance bigint not null) partition by hash (id);
create table accounts_p0%SUFFIX% partition of accounts%SUFFIX% for values with (modulus 2, remainder 0);
create table accounts_p1%SUFFIX% partition of accounts%SUFFIX% for values with (modulus 2, remainder 1);
`)},
	"transactions.sql": {Data: []byte(`create table transactions%SUFFIX% (
    event_id bigint primary key, account_id uuid not null, seq bigint not null, kind text not null, amount bigint not null, balance bigint not null,
    description text not null, at timestamptz not null
) partition by range (event_id);
create table transactions_first%SUFFIX% partition of transactions%SUFFIX% for values from (minvalue) to (1000);
create table transactions_rest%SUFFIX% partition of transactions%SUFFIX% default;
`)},
	"transactions.indexes.sql": {Data: []byte("create index transactions%SUFFIX%_account on transactions%SUFFIX% (account_id, seq);\n")},
}

// fromFile makes a configuration of a file that has the databases' URLs, one on a line.
func fromFile(file string) (cli.Config, error) {
	text, err := os.ReadFile(file)
	views, events, _ := strings.Cut(string(text), "\n")
	return cli.Config{Definition: v1.Definition, Database: views, EventsDatabase: strings.TrimSpace(events)}, err
}

// scriptTest is the key of a script's testing.TB.
type scriptTest struct{}

// replicated moves the script to a server of its own that has a hot standby.
func replicated(ts *testscript.TestScript, _ bool, _ []string) {
	primary, standbys := pgtest.Replicated(ts.Value(scriptTest{}).(testing.TB), filledStore, nil)
	ts.Setenv("DATABASE_URL", primary)
	ts.Setenv("STANDBY_URL", standbys[0])
}

// sql runs a statement in the script's database.
func sql(ts *testscript.TestScript, _ bool, args []string) {
	conn := connect(ts)
	defer conn.Close(context.Background())
	execute(ts, conn, args)
}

func hold(ts *testscript.TestScript, _ bool, args []string) {
	conn := connect(ts)
	ts.Defer(func() { ts.Check(conn.Close(context.Background())) })
	execute(ts, conn, []string{"begin"})
	execute(ts, conn, args)
}

func connect(ts *testscript.TestScript) *pgx.Conn {
	conn, err := pgx.Connect(context.Background(), ts.Getenv("DATABASE_URL"))
	ts.Check(err)
	return conn
}

func execute(ts *testscript.TestScript, conn *pgx.Conn, statements []string) {
	for _, statement := range statements {
		_, err := conn.PgConn().Exec(context.Background(), statement).ReadAll()
		ts.Check(err)
	}
}
