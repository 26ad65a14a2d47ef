package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/viewschema/projector/cli"
)

// workerVariable makes this program a command line, with the definition that its value names.
const workerVariable = "PROJECTOR_BENCH_AS"

// asWorker does not return if there is such a definition.
func asWorker(name string) {
	if d, ok := definitions[worker(name)]; ok {
		cli.Main(d())
	}
}

// worker is a command line of Projector: this program again, with one of the definitions. It is the value of workerVariable.
type worker string

const (
	asBank  worker = "bank"
	asUUIDs worker = "uuid" // the worker's own definition, with ids that are UUIDs
	asTexts worker = "text"
	asSQL   worker = "SQL"
	asLane  worker = "in order" // what needs the order of the store, and nothing else
)

// outcome is what a process took, and what it says itself.
type outcome struct {
	Wall    time.Duration      `json:"-"` // from the start of the process to its end
	Peak    int64              `json:"-"` // bytes of memory
	Own     int64              `json:"-"` // the peak of this program until then, below which none can be measured
	CPU     time.Duration      `json:"-"` // of all cores
	Phases  map[string]float64 `json:"-"` // of a rebuild, in seconds, as its record has them
	Events  int64              `json:"events"`
	Rows    int64              `json:"rows"`
	HeldOff float64            `json:"held_off_seconds"`
	Times   map[string]float64 `json:"times_seconds"`
}

// migrate runs one of the migrate commands. More flags come before it.
func (b *bench) migrate(ctx context.Context, w worker, url, command string, more ...string) (outcome, error) {
	flags := append([]string{"--json", "--no-progress", "--workers", strconv.Itoa(b.workers)}, more...)
	out, o, err := b.command(ctx, w, url, append(flags, "migrate", command)...)
	if err != nil {
		return o, err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &o); err != nil {
		return o, fmt.Errorf("the last line of migrate %s: %w\n%s", command, err, out)
	}
	return o, nil
}

// command runs a command line as a process of its own, on a database.
func (b *bench) command(ctx context.Context, w worker, url string, args ...string) (stdout string, o outcome, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", o, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(environment(), "DATABASE_URL="+url, workerVariable+"="+string(w))
	var out, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errors
	o.Own = ownPeak()
	began := time.Now()
	err = cmd.Run()
	o.Wall = time.Since(began)
	if err != nil {
		return "", o, fmt.Errorf("%s on %s: %w\n%s", strings.Join(args, " "), url, err, &errors)
	}
	o.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		o.Peak = maxRSS(usage)
	}
	return out.String(), o, nil
}

// ownPeak is the peak of this program. Linux counts it in the peak of every process that it starts.
func ownPeak() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return maxRSS(&usage)
}

// maxRSS is the peak of a process in bytes.
func maxRSS(usage *syscall.Rusage) int64 {
	if runtime.GOOS == "darwin" {
		return usage.Maxrss
	}
	return usage.Maxrss << 10
}

// environment is ours without what would change the command line.
func environment() (clean []string) {
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "PROJECTOR_") && !strings.HasPrefix(entry, "PG") {
			clean = append(clean, entry)
		}
	}
	return clean
}

// reset removes what the last run has made, and lets the server and the system write down what they have in memory: what a
// data set or a run leaves to be written must not fall on the next run.
func (b *bench) reset(ctx context.Context, database string) error {
	if err := b.exec(ctx, database, "drop schema if exists view_schema cascade", "drop schema if exists floor cascade"); err != nil {
		return err
	}
	return b.settle(ctx)
}

// settle waits until everything is written.
func (b *bench) settle(ctx context.Context) error {
	err := b.exec(ctx, "", "checkpoint")
	syscall.Sync()
	return err
}

// rebuild makes the view tables from all events. What it says is held against the number of events.
func (b *bench) rebuild(ctx context.Context, w worker, database string, events int) (outcome, error) {
	if err := b.reset(ctx, database); err != nil {
		return outcome{}, err
	}
	o, err := b.migrate(ctx, w, b.server.URL(database), "online")
	if err == nil {
		o.Phases, err = b.phases(ctx, database)
	}
	return o, o.complete(database, events, err)
}

// complete returns err, or that not all events were replayed.
func (o *outcome) complete(database string, events int, err error) error {
	if err == nil && (o.Events != int64(events) || o.Rows == 0) {
		err = fmt.Errorf("migrate online on %s says %d events and %d rows; there are %d events", database, o.Events, o.Rows, events)
	}
	return err
}
