package cli

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/viewschema"
)

// app describes the command line to urfave.
func (p *program) app() *urfave.App {
	commands := append([]*urfave.Command{
		{
			Name:   "init",
			Usage:  "create the view schema and the bookkeeping tables, or bring them up to date; safe to repeat",
			Flags:  []urfave.Flag{&urfave.BoolFlag{DisableDefaultText: true, Name: "check", Usage: "touch nothing, and exit with 3 if something is pending"}},
			Action: p.action(initialize),
		},
		{
			Name:   "version",
			Usage:  "show the version of the database and the target of the definition",
			Flags:  []urfave.Flag{&urfave.BoolFlag{DisableDefaultText: true, Name: "check", Usage: "exit with 3 if a migration is pending"}},
			Action: p.action(version),
		},
		{
			Name:  "plan",
			Usage: "show what a migration would do; touches nothing",
			Flags: []urfave.Flag{
				&urfave.BoolFlag{DisableDefaultText: true, Name: "check", Usage: "exit with 3 if a migration is pending, with 2 if something blocks it"},
				&urfave.BoolFlag{DisableDefaultText: true, Name: "sql", Usage: "print the SQL files as the migration would run them"},
				strictTypesFlag(),
				&urfave.BoolFlag{
					DisableDefaultText: true, Name: "rehearse",
					Usage: "make the new tables in a transaction that is rolled back, to find what is wrong with their SQL files, and what hangs on the live tables that would not fit",
				},
			},
			Action: p.action(plan),
		},
		{
			Name:        "migrate",
			Usage:       "bring the database to the target version",
			Subcommands: p.migrate(),
			Action:      p.subcommand,
		},
		{
			Name:   "status",
			Usage:  "show where the database and the migration under way stand",
			Flags:  statusFlags(),
			Action: p.action(status),
		},
		p.serveCommand(),
		{
			Name:   "runs",
			Usage:  "list the last commands that changed something: who ran them, how long they took, and what became of them",
			Flags:  []urfave.Flag{&urfave.IntFlag{Name: "limit", Value: 20, Usage: "how many"}},
			Action: p.action(listRuns),
		},
		p.throttleCommand(),
		p.verify(),
		{
			Name:        "events",
			Usage:       "tell whether the event table is fit, make it fit while the application writes, and see to events that cannot be projected",
			Subcommands: p.events(),
			Action:      p.subcommand,
		},
		{
			Name:   "rollback",
			Usage:  "with the release before: catch the archived tables up and cut over to them, which takes the last cutover back",
			Flags:  cutoverFlags(),
			Action: p.action(cutover((*viewschema.Schema).Rollback)),
		},
		{
			Name:   "doctor",
			Usage:  "look at all that could be in a migration's way, on the servers and in the event table; exits with 3 if something should be mended",
			Action: p.action(examine),
		},
		{
			Name:  "clean",
			Usage: "drop archived tables, those that nothing depends on; lists them first",
			Flags: []urfave.Flag{
				&urfave.DurationFlag{Name: "older-than", Value: 7 * 24 * time.Hour, Usage: "how long ago they have to have been archived"},
				&urfave.BoolFlag{DisableDefaultText: true, Name: "dry-run", Usage: "list them, and do nothing"},
				yesFlag(),
				&urfave.DurationFlag{Name: "lock-wait", Value: time.Minute, Usage: "how long to try to get the locks of a table"},
			},
			Action: p.action(clean),
		},
		{
			Name:  "tables",
			Usage: "create view tables, for development and tests",
			Subcommands: []*urfave.Command{{
				Name:   "create",
				Usage:  "create all view tables, empty, and record the target version",
				Action: p.action(step((*viewschema.Schema).CreateTables)),
			}},
			Action: p.subcommand,
		},
		{
			Name:   "replay",
			Usage:  "for development and tests: empty the live view tables and fill them from all events, holding everybody off",
			Flags:  replayFlags(),
			Action: p.replay,
		},
		{
			Name:      "help",
			Usage:     "show the commands, or the flags of one",
			ArgsUsage: "[command]",
			Action:    help,
		},
	}, p.extra...)
	app := &urfave.App{
		Name:           p.name,
		HelpName:       p.name,
		Usage:          "rebuild view tables from events, beside the running application",
		Flags:          append(globalFlags(), p.configFlag()...),
		Commands:       commands,
		Before:         p.before,
		Action:         p.subcommand,
		Reader:         p.Stdin,
		Writer:         p.Stdout,
		ErrWriter:      p.Stderr,
		OnUsageError:   p.usageError,
		ExitErrHandler: func(*urfave.Context, error) {}, // never exits: Run returns the code
		HideHelp:       true,                            // urfave's help is one value for all apps, and written to: see help
		HideVersion:    true,                            // the same
	}
	showVariables(app.Flags)
	app.Flags = append(app.Flags, versionFlag(), helpFlag())
	p.prepare(app.Commands)
	return app
}

func (p *program) migrate() []*urfave.Command {
	return []*urfave.Command{
		{
			Name:  "online",
			Usage: "build the new tables beside the live ones; resumes, and shares the work with others that run it",
			Flags: append([]urfave.Flag{
				&urfave.DurationFlag{
					Name: "cut-timeout", DefaultText: "no limit",
					Usage: "how long to wait for transactions that may still bring events, before the ledger takes every event",
				},
				followFlag(),
				strictTypesFlag(),
				httpFlag(),
			}, replayingFlags()...),
			Action: p.action(online),
		},
		{
			Name:   "catchup",
			Usage:  "apply the events that came since; any number of times",
			Flags:  append([]urfave.Flag{followFlag(), httpFlag()}, replayingFlags()...),
			Action: p.action(catchUp),
		},
		{
			Name:  "offline",
			Usage: "the cutover: the last events, the new names, the new version, in one transaction",
			Flags: append(cutoverFlags(),
				&urfave.BoolFlag{DisableDefaultText: true, Name: "verify", Usage: "compare the built tables with the live ones first, and if they differ do nothing and exit with 3; see verify"},
				expectFlag(),
				&urfave.BoolFlag{DisableDefaultText: true, Name: "with-parked", Usage: "cut over although parked aggregates are left out; live projections of their events will not find their rows"}),
			Action: p.action(offline),
		},
		{
			Name:   "abort",
			Usage:  "remove what the migration under way has made, after listing it; the live tables stay",
			Flags:  []urfave.Flag{yesFlag()},
			Action: p.action(abort),
		},
	}
}

// replayingFlags belong to the commands that replay while the application runs.
func replayingFlags() []urfave.Flag { return append(parkingFlags(), throttleFlags()...) }

func cutoverFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.DurationFlag{Name: "lock-wait", Value: time.Minute, Usage: "how long to try to get the locks"},
		&urfave.DurationFlag{Name: "pause-budget", Value: 500 * time.Millisecond, Usage: "how long to hold off writers for a try; kept below deadlock_timeout"},
		&urfave.BoolFlag{DisableDefaultText: true, Name: "maintenance", Usage: "all writers are stopped: do not lock the event table, and roll back if an event comes"},
		httpFlag(),
	}
}

func yesFlag() urfave.Flag {
	return &urfave.BoolFlag{DisableDefaultText: true, Name: "yes", Usage: "do not ask"}
}

func followFlag() urfave.Flag {
	return &urfave.BoolFlag{DisableDefaultText: true, Name: "follow", Usage: "keep catching up until the cutover"}
}

func strictTypesFlag() urfave.Flag {
	return &urfave.BoolFlag{
		DisableDefaultText: true, Name: "strict-types",
		Usage: "refuse, with 2, event types that the definition does not know or the store does not have; reads the types of all events first",
	}
}

func globalFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.StringFlag{Name: "database-url", Usage: "the database of the events and view tables; also DATABASE_URL, and libpq's PGHOST, PGDATABASE …"},
		&urfave.StringFlag{Name: "events-url", Usage: "the database of the events, if it is another one than that of the view tables"},
		&urfave.IntFlag{Name: "workers", Value: max(2, runtime.GOMAXPROCS(0)), Usage: "how many batches to replay at once"},
		&urfave.StringFlag{Name: "free-disk-query", Usage: "a query that yields the volumes of the view tables' server, one a row: a name, and how many bytes are free; needed for that on other hosts than the server's"},
		&urfave.BoolFlag{Name: "auto-migrate", Value: true, Usage: "bring the bookkeeping tables up to date when a command needs it; otherwise only init does"},
		&urfave.BoolFlag{DisableDefaultText: true, Name: "json", Usage: "answer in lines of JSON"},
		&urfave.BoolFlag{DisableDefaultText: true, Name: "no-progress", Usage: "no bar and no progress lines"},
		&urfave.StringFlag{Name: "log-level", Value: "info", Usage: "debug, info, warn or error"},
	}
}

// prepare gives every command what all commands have.
func (p *program) prepare(commands []*urfave.Command) {
	for _, c := range commands {
		c.OnUsageError = p.usageError
		showVariables(c.Flags)
		c.HideHelp = true
		c.Flags = append(c.Flags, helpFlag())
		before := c.Before
		c.Before = func(ctx *urfave.Context) error {
			if err := p.fromEnvironment(ctx); err != nil || before == nil {
				return err
			}
			return before(ctx)
		}
		if len(c.Subcommands) == 0 && !c.Args && c.ArgsUsage == "" {
			action := c.Action
			c.Action = func(ctx *urfave.Context) error {
				if ctx.Args().Present() {
					return p.unexpected(ctx)
				}
				return action(ctx)
			}
		}
		p.prepare(c.Subcommands)
	}
}

func (p *program) before(c *urfave.Context) error {
	err := p.fromEnvironment(c)
	p.json = c.Bool("json")
	if c.Bool("version") {
		fmt.Fprintf(p.Stdout, "%s version %s\n", p.name, p.buildVersion())
		return &quietError{exitDone}
	}
	return err
}

func versionFlag() urfave.Flag {
	return &urfave.BoolFlag{DisableDefaultText: true, Name: "version", Usage: "print the version of the binary"}
}

// helpFlag has the name by which urfave finds out that help is asked for.
func helpFlag() urfave.Flag {
	return &urfave.BoolFlag{DisableDefaultText: true, Name: "help", Aliases: []string{"h"}, Usage: "show help"}
}

// help makes "help plan" of "plan --help".
func help(c *urfave.Context) error {
	line := append([]string{c.App.Name}, c.Args().Slice()...)
	return c.App.RunContext(c.Context, append(line, "--help"))
}

// action makes the action of a command that works on the view schema.
func (p *program) action(run func(context.Context, *session) error) urfave.ActionFunc {
	return func(c *urfave.Context) error {
		s, err := p.open(c)
		if err != nil {
			return err
		}
		defer s.close()
		return run(c.Context, s)
	}
}

// subcommand is the action of what has commands below it.
func (p *program) subcommand(c *urfave.Context) error {
	if c.Args().Present() {
		return p.unknownCommand(c, c.Args().First())
	}
	if c.Command.Name == p.name { // nothing was asked: say what can be
		return urfave.ShowAppHelp(c)
	}
	return usagef("%s what? type one of: %s", p.path(c), strings.Join(commandNames(c), ", "))
}
