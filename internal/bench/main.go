// Command bench measures Projector's command line on a private PostgreSQL, and holds a rebuild against its floor: the least
// that PostgreSQL itself must do for the same result. docs/benchmarks.md says what the rows of its table mean.
//
// main.go has the flags, bench.go the server, stores.go the data sets, command.go and definition.go the command lines, floor.go
// the floor, rows.go, tail.go, network.go, wal.go, statistics.go and estimate.go the rows of the table, link.go a network with a
// delay, calibrate.go the rates of plan --estimate, and report.go prints them. Nothing here judges: the bounds are printed beside
// what was measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

//nolint:forbidigo // a program: it reads the environment, prints and exits
func main() {
	asWorker(os.Getenv(workerVariable))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Ctrl-C does what it does by default
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run returns the exit code.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	err = measure(ctx, o, env, stdout, stderr)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "interrupted; the private server and its data are gone")
		return 130
	case err != nil:
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

type options struct {
	events  int // of the large data set
	repeat  int
	workers int
	only    []int // rows; all if empty
	json    string
	rates   string
	large   bool
	flags   []string // as they were given
}

// boundedEvents is the size of the large data set that the bounds are for.
const boundedEvents = 3_000_000

func parse(args []string, stderr io.Writer) (o options, err error) {
	o.flags = args
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.events, "events", boundedEvents, "events of the large data set; the small one has a tenth")
	flags.IntVar(&o.repeat, "repeat", 5, "how often to measure what is compared")
	flags.IntVar(&o.workers, "workers", 2, "of the command line, and sessions of the floor")
	flags.StringVar(&o.json, "json", "", "a file to write the report to as JSON")
	flags.StringVar(&o.rates, "rates", "", "row 14: a file to write the rates of plan --estimate to")
	flags.BoolVar(&o.large, "large", false, "also measure ten times the events: takes 30 GB of disk and many minutes")
	flags.Func("only", "the rows to measure, like 1,5", func(list string) error {
		for field := range strings.SplitSeq(list, ",") {
			n, err := strconv.Atoi(strings.TrimSpace(field))
			if err != nil || !slices.ContainsFunc(measurements, func(m measurement) bool { return m.row == n }) {
				return fmt.Errorf("%q is no row: they are 1 to %d", field, len(measurements))
			}
			o.only = append(o.only, n)
		}
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("bench takes no arguments, such as %q", flags.Arg(0))
	case o.events < fewestEvents:
		err = fmt.Errorf("-events is %d or more", fewestEvents)
	case o.repeat < 1 || o.workers < 1:
		err = errors.New("-repeat and -workers are 1 or more")
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return o, err
}

// fewestEvents is enough for the small data set and 1% of the large one to be something.
const fewestEvents = 10_000

func (o options) wants(row int) bool { return len(o.only) == 0 || slices.Contains(o.only, row) }
