package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/viewschema"
)

// Main runs the command line of the process for d and exits. The first SIGINT or SIGTERM lets the command give back what it
// holds; the second ends the process at once.
func Main(d viewschema.Definition, options ...Option) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from here on a signal does what it does by default
	ballast := make([]byte, ballastBytes)
	exit := Run(ctx, d, Process{
		Args: os.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Restart: restart,
	}, options...)
	runtime.KeepAlive(ballast)
	os.Exit(exit)
}

// ballastBytes count as memory in use, but take none, since nobody writes to them. Go collects garbage when what is in use has doubled: a
// worker that has 10 MB in use would do little else. What is far above the ballast is collected as ever.
const ballastBytes = 48 << 20

// restart makes the process run the program's file as it is now.
func restart() error {
	path, err := os.Executable()
	if err == nil {
		err = syscall.Exec(path, os.Args, os.Environ())
	}
	return fmt.Errorf("the program was built anew, and cannot be started from here: %w; start it again", err)
}

// Process is what a command line takes from the process that it runs in.
type Process struct {
	Args   []string // the program's name and its arguments, like os.Args
	Stdin  io.Reader
	Stdout io.Writer // for answers; nil: nobody reads them
	Stderr io.Writer // for logs and progress; a terminal gets a bar
	// Getenv looks up an environment variable; nil: there are none. The PG… variables of libpq are an exception: pgx reads
	// them from the process itself.
	Getenv func(name string) string
	// Restart is called by "replay --watch" when the program's file has been replaced; nil: it goes on with the code that it
	// has.
	Restart func() error
}

// Option changes the command line.
type Option func(*program)

// WithName sets the name of the binary in messages; without it, it is that of the first argument.
func WithName(name string) Option {
	return func(p *program) { p.name = name }
}

// WithVersion sets what --version prints; without it, it is what the Go toolchain stamped into the binary.
func WithVersion(version string) Option {
	return func(p *program) { p.version = version }
}

// WithCommand adds a command. Like the others, its flags can be given as environment variables, and it takes no arguments
// unless it has an ArgsUsage. What its action returns becomes an exit code like any other error; one with an ExitCode
// method chooses its own. c is changed by Run, so make a new one for each.
func WithCommand(c *urfave.Command) Option {
	return func(p *program) { p.extra = append(p.extra, c) }
}

// Run runs one command line for d and returns the exit code. When ctx ends, so does the command, and says that what was
// committed stays; if the context's cause has an ExitCode method, it says that instead. Several may run at once.
func Run(ctx context.Context, d viewschema.Definition, process Process, options ...Option) (exit int) {
	p := &program{definition: d, Process: process}
	p.Stdout, p.Stderr = cmp.Or(p.Stdout, io.Discard), cmp.Or(p.Stderr, io.Discard)
	if len(p.Args) == 0 {
		p.Args = []string{"projector"}
	}
	p.name = filepath.Base(p.Args[0])
	for _, option := range options {
		option(p)
	}
	// Until the flags are parsed, this says how an error about them is to be reported.
	p.json = slices.Contains(p.Args, "--json")
	ctx, err := p.withFault(ctx)
	if err == nil {
		err = p.app().RunContext(ctx, p.Args)
	}
	return p.end(ctx, err)
}

// program is one run of the command line.
type program struct {
	Process
	definition viewschema.Definition
	load       func(file string) (Config, error) // nil: the definition is there
	name       string
	version    string
	extra      []*urfave.Command
	json       bool
	unsaid     []string // flags that the environment has set
}

func (p *program) getenv(name string) string {
	if p.Getenv == nil {
		return ""
	}
	return p.Getenv(name)
}
