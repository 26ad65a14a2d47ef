package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pglocal"
	"github.com/viewschema/projector/viewschema"
)

func demoCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "demo",
		Usage: "the whole story on a private PostgreSQL with the bank",
		Flags: []urfave.Flag{
			&urfave.IntFlag{Name: "events", Value: 100_000, DefaultText: "100,000", Usage: "events in the store when the migration begins"},
			&urfave.IntFlag{Name: "writers", Value: 1, Usage: "sessions that append and project events meanwhile"},
			&urfave.Uint64Flag{Name: "seed", DefaultText: "random", Usage: "of the made-up customers"},
			&urfave.BoolFlag{Name: "keep", DisableDefaultText: true, Usage: "keep the server until interrupted, to look around"},
		},
		Action: func(c *urfave.Context) error {
			if c.Bool("json") {
				return urfave.Exit("demo has no --json", exitUsage)
			}
			if c.Int("events") < 1 || c.Int("writers") < 0 {
				return urfave.Exit("--events must be at least 1, --writers at least 0", exitUsage)
			}
			d := &demo{events: c.Int("events"), writers: c.Int("writers"), seed: c.Uint64("seed"), keep: c.Bool("keep"), out: c.App.Writer, err: c.App.ErrWriter}
			if !c.IsSet("seed") {
				d.seed = rand.Uint64()
			}
			// The commands that the demo runs must not say that what they have committed stays.
			ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.Context))
			defer cancel(nil)
			defer context.AfterFunc(c.Context, func() { cancel(urfave.Exit("interrupted", exitInterrupted)) })()
			err := d.run(ctx)
			if err != nil && ctx.Err() != nil {
				return urfave.Exit("interrupted; the private server and its data are gone", exitInterrupted)
			}
			return err
		},
	}
}

// Exit codes of the command line.
const (
	exitUsage       = 2
	exitInterrupted = 130
)

// demo migrates a bank from version 1 to version 2 while customers move money.
type demo struct {
	events, writers int
	seed            uint64
	keep            bool
	out, err        io.Writer

	url     string
	db      *pgxpool.Pool
	started time.Time
}

func (d *demo) run(ctx context.Context) (err error) {
	binaries, err := pglocal.Find(os.Getenv)
	if err != nil {
		return err
	}
	d.say("starting a private PostgreSQL %s (%s)", binaries.Version, binaries.Dir)
	server, err := pglocal.Start(ctx, binaries, pglocal.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	d.url = server.URL("")
	if d.db, err = pgxpool.New(ctx, d.url); err != nil {
		return err
	}
	defer d.db.Close()
	if err := d.firstRelease(ctx); err != nil {
		return err
	}
	if err := d.migrate(ctx); err != nil {
		return err
	}
	if d.keep {
		d.say(`the server runs until you press Ctrl-C; look around in another terminal:
  export DATABASE_URL='%s'
  bin/bank status
  psql "$DATABASE_URL"
make build makes bin/bank. Its own target is version 3, and the demo stops at 2: bin/bank plan shows what is left.`, d.url)
		<-ctx.Done()
	}
	return nil
}

// firstRelease fills the event store and brings version 1 up.
func (d *demo) firstRelease(ctx context.Context) error {
	d.say("filling the event store with %s (seed %d)", count(d.events, "event"), d.seed)
	if _, err := d.db.Exec(ctx, bank.EventTable); err != nil {
		return err
	}
	err := d.withConn(ctx, func(conn *pgx.Conn) error { return bank.Fill(ctx, conn, d.events, d.seed) })
	if err != nil {
		return err
	}
	d.say("the bank's first release goes live")
	for _, step := range []string{"online", "offline"} {
		if err := d.projector(ctx, v1.Definition, "migrate", step); err != nil {
			return err
		}
	}
	return nil
}

// migrate brings version 2 up while the writers go on, and proves the outcome.
func (d *demo) migrate(ctx context.Context) error {
	second := bank.Definition
	second.Versions = second.Versions.UpTo(2)
	d.say("%s at work from now to the end: events are appended, and projected into version 1's tables", count(d.writers, "writer"))
	stop, err := d.startWriters(ctx, v1.Definition, second)
	if err != nil {
		return err
	}
	var online time.Duration
	for _, step := range [][]string{{"plan"}, {"migrate", "online"}, {"migrate", "catchup"}, {"migrate", "offline"}, {"status"}} {
		began := time.Now()
		if err = d.projector(ctx, second, step...); err != nil {
			break
		}
		if step[len(step)-1] == "online" {
			online = time.Since(began)
		}
	}
	traffic, stopErr := stop()
	if err := errors.Join(err, stopErr); err != nil {
		return err
	}
	return d.prove(ctx, online, traffic)
}

// projector runs the command line as an operator would.
func (d *demo) projector(ctx context.Context, release viewschema.Definition, args ...string) error {
	line := append([]string{"projector"}, args...)
	fmt.Fprintf(d.out, "\n$ projector")
	for _, a := range args {
		fmt.Fprintf(d.out, " %s", a)
	}
	fmt.Fprintln(d.out)
	environment := func(name string) string {
		if name == "DATABASE_URL" {
			return d.url
		}
		return ""
	}
	exit := cli.Run(ctx, release, cli.Process{Args: line, Stdin: nil, Stdout: d.out, Stderr: d.err, Getenv: environment})
	if exit != 0 {
		return fmt.Errorf("projector %v ended with exit code %d", args, exit)
	}
	return nil
}

// startWriters lets customers act until stop is called.
func (d *demo) startWriters(ctx context.Context, releases ...viewschema.Definition) (stop func() (bank.Traffic, error), err error) {
	var code []bank.Release
	for _, r := range releases {
		release, err := bank.NewRelease(r)
		if err != nil {
			return nil, err
		}
		code = append(code, release)
	}
	ctx, cancel := context.WithCancel(ctx)
	type outcome struct {
		bank.Traffic
		err error
	}
	outcomes := make(chan outcome, d.writers)
	sets, err := bank.ShareOut(ctx, d.db, d.seed+1, d.writers)
	if err != nil {
		cancel()
		return nil, err
	}
	for _, customers := range sets {
		go func() {
			traffic, err := customers.Serve(ctx, &bank.Store{DB: d.db, Releases: code})
			outcomes <- outcome{traffic, err}
		}()
	}
	return func() (all bank.Traffic, err error) {
		cancel()
		for range d.writers {
			o := <-outcomes
			all.Events += o.Events
			all.LongestGap = max(all.LongestGap, o.LongestGap)
			err = errors.Join(err, o.err)
		}
		return all, err
	}, nil
}

// prove compares every row with a replay by hand, and prints what came of it.
func (d *demo) prove(ctx context.Context, online time.Duration, traffic bank.Traffic) error {
	d.say("replaying all events one by one, without Projector, to compare every row")
	var tables []bank.Comparison
	err := d.withConn(ctx, func(conn *pgx.Conn) (err error) {
		tables, err = bank.Verify(ctx, conn, 2)
		return err
	})
	if err != nil {
		return err
	}
	var events, rows, differ int64
	var examples []string
	for _, t := range tables {
		rows += t.Rows
		differ += t.Missing + t.Surplus
		examples = append(examples, t.Examples...)
	}
	var heldOff time.Duration
	err = d.db.QueryRow(ctx, `
		select (select count(*) from events), held_off
		from view_schema.projector_migrations
		where state = 'active'`).Scan(&events, &heldOff)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, `
events in the store             %12s
  appended during the migration %12s
rows compared                   %12s
events/s replayed online        %12s
writers held off by the cutover %12s
longest gap between two commits %12s
rows that differ                %12s

`, number(events), number(traffic.Events), number(rows), number(int(float64(d.events)/online.Seconds())),
		heldOff.Round(time.Millisecond/10), traffic.LongestGap.Round(time.Millisecond/10), number(differ))
	if differ > 0 {
		return fmt.Errorf("%s rows differ (seed %d): %q", number(differ), d.seed, examples)
	}
	fmt.Fprintln(d.out, "where to look next: examples/bank (the projectors), sql/views (the tables), README.md (how it works)")
	if !d.keep {
		fmt.Fprintln(d.out, "projector demo --keep leaves the server running, to look at the tables with psql")
	}
	return nil
}

// number writes n with commas: 1,234,567.
func number[Int int | int64](n Int) string {
	if n < 1_000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", number(n/1_000), n%1_000)
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return number(n) + " " + what
}

func (d *demo) say(format string, args ...any) {
	if d.started.IsZero() {
		d.started = time.Now()
	}
	fmt.Fprintf(d.out, "\n[%5.1fs] %s\n", time.Since(d.started).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) withConn(ctx context.Context, fn func(conn *pgx.Conn) error) error {
	conn, err := d.db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return fn(conn.Conn())
}
