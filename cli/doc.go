// Package cli is the command line of a view schema.
//
// An application builds its own binary, with its own projectors in it:
//
//	func main() {
//		cli.Main(viewschema.Definition{
//			Events:     bank.Events,
//			Projectors: bank.Projectors,
//			Versions:   bank.Versions,
//			Views:      views.FS,
//		})
//	}
//
// Main has the commands init, version, plan, doctor, migrate online, migrate catchup, migrate offline, migrate abort, rollback, clean,
// status, serve, runs, throttle, verify, tables create, replay, events check, events prepare, events parked and events retry.
// WithCommand adds more. Run is Main without the process, for tests and for programs that have a command line of their own.
// WithConfig takes the definition from a file instead, as the stock binary does.
//
// Every flag is also an environment variable: --lock-wait is PROJECTOR_LOCK_WAIT. Flags go before arguments, global flags
// before the command.
//
// WithConfig takes the definition from a file, which --config names, as the stock binary does.
//
// # Output
//
// Standard output is the answer; standard error is logs and progress: a bar on a terminal, otherwise a log line every 10
// seconds. With --json the answer is one line of JSON with a "type"; before it, migrate online writes a line of the type
// "progress" every second. --follow answers after each pass that found something, and at last, at the cutover, with a result
// of the command "follow". A command that fails ends with a line of the type "error", and the same text goes to standard
// error. Durations are seconds.
//
// # Exit codes
//
//	0    done, or nothing to do
//	1    failed
//	2    usage, or refused: nothing was touched
//	3    a migration is pending, or something is to be mended; only init, version and plan with
//	     --check, events check, verify, and migrate offline with --verify
//	4    a migration to another version is under way, or somebody else prepares the event table
//	5    the migration is not in the state that the command needs, or the database is ahead of the definition,
//	     or its bookkeeping tables are not up to date with --auto-migrate=false
//	6    stopped, since less is free on a disk of the server than --min-free-disk; the same command goes on
//	130  interrupted
package cli
