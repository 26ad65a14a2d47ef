package viewschema

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// Options change how a Schema works; the zero value is good.
type Options struct {
	Workers int           // that replay at once; default 2
	Events  *pgxpool.Pool // the database of the events, if it is another one than that of the view tables
	// Standby is the database of the view tables on a hot standby of its server, if events are to be read there: see Locate. The cut, the
	// cutover, and what no cut can be settled for are up to the primary.
	Standby    *pgxpool.Pool
	Log        zerolog.Logger
	Progress   func(replay.Progress) // see replay.Job
	LockWait   time.Duration         // how long the cutover tries to get its locks; default 1 minute
	CutTimeout time.Duration         // how long the first cut waits for open writers; default: without limit
	// PauseBudget bounds how long the cutover holds off writers before it has all its locks; default 500 ms. It is kept
	// below the server's deadlock_timeout.
	PauseBudget time.Duration
	// Maintenance cuts over without locking the event table, for a role that may not: the operator has stopped all writers,
	// and the cutover rolls back if it finds one or an event that came meanwhile.
	Maintenance bool
	// OnError says what an event does that cannot be projected, while the application runs: it stops the work, which is the
	// default, or its aggregate is parked. The cutover always stops.
	OnError   replay.OnError
	MaxParked int // how many aggregates OnError may park; default 100
	// Expect are the differences that Verify leaves out: table.column, or table for all of it.
	Expect []string
	// WithParked cuts over to a version that leaves parked aggregates out.
	WithParked bool
	// StrictTypes makes Plan and MigrateOnline refuse event types of the store that the definition does not know, and types of
	// the definition of which the store has no event. For that they look at all events, before anything is touched.
	StrictTypes bool
	// Throttle changes what the migration keeps to when MigrateOnline, CatchUp or Follow first begin to work on it; nil: it stays as it
	// is. Of what it sets, replays of live tables, which belong to no migration, keep to MinFreeDisk.
	Throttle func(*Throttle)
	// FreeDiskQuery is a query for the database of the view tables that yields the volumes of its server, one a row: a name and how many
	// bytes are free. Without it, that is known only on the server's host, to who may look into its data directory.
	FreeDiskQuery string
	Runner        Runner // for the records of commands
	// Rehearse lets Plan make the tables of a migration that has not begun, in a transaction that it rolls back, to find out what is
	// wrong with their files, and what hangs on the live tables that would not fit. Without it, Plan touches nothing.
	Rehearse bool
	// ManualInit leaves the bookkeeping tables as they are: what needs them newer returns ErrInit, and Init is up to the
	// operator.
	ManualInit bool
}

// Schema is a definition that was checked, and its database. It is safe for concurrent use.
type Schema struct {
	def     *definition
	db      *pgxpool.Pool
	events  *pgxpool.Pool // db, or another one
	standby *pgxpool.Pool // nil: there is none
	opts    Options
	files   fs.FS      // of the bookkeeping tables, in bookkeeping/
	said    *sync.Once // that Options.Throttle was recorded: what an operator changes later stays
}

// Open checks the definition, all of it, and connects it to the database of the view tables. It touches nothing there. An
// error wraps ErrDefinition.
func Open(db *pgxpool.Pool, d Definition, o Options) (*Schema, error) {
	def, err := d.check()
	if err != nil {
		return nil, err
	}
	if tables := def.set.SQLTables(); (o.Events != nil && o.Events != db || o.Standby != nil) && len(tables) > 0 {
		return nil, fmt.Errorf("%w: a query fills table %s of projector %s, and for that the events have to be in the database of the view tables; write the projector in Go",
			ErrDefinition, tables[0].Name, tables[0].Projector)
	}
	if o.Events != nil && o.Events != db && o.Standby != nil {
		return nil, fmt.Errorf("%w: a standby of the view tables' server does not have the events, which are in another database", ErrDefinition)
	}
	if !slices.Contains([]replay.OnError{"", replay.Stop, replay.Park}, o.OnError) {
		return nil, fmt.Errorf("%w: OnError is %q; it can be %s or %s", ErrDefinition, o.OnError, replay.Stop, replay.Park)
	}
	if o.Workers <= 0 {
		o.Workers = 2
	}
	if o.LockWait <= 0 {
		o.LockWait = time.Minute
	}
	if o.PauseBudget <= 0 {
		o.PauseBudget = 500 * time.Millisecond
	}
	return &Schema{def: def, db: db, events: cmp.Or(o.Events, db), standby: o.Standby, opts: o, files: bookkeeping, said: &sync.Once{}}, nil
}

// elsewhere says whether the events are in another database than the view tables.
func (s *Schema) elsewhere() bool { return s.events != s.db }

// Target returns the definition's version.
func (s *Schema) Target() int { return s.def.Versions.Target() }

// inTx runs fn in a transaction that waits at most 10 s for each lock: whoever comes after us waits behind us. Only the
// cutover takes locks that an application is likely to hold, and it has a bound of its own.
func (s *Schema) inTx(ctx context.Context, point pg.Point, fn func(tx pgx.Tx) error) error {
	return pg.InTx(ctx, pg.Configured{DB: s.db, Settings: lockBounds}, point, fn)
}

// inBoth is inTx with a transaction in the database of the events, which is the same one, or one that holds what it holds
// until tx has committed.
func (s *Schema) inBoth(ctx context.Context, point pg.Point, fn func(tx, events pgx.Tx) error) error {
	if !s.elsewhere() {
		return s.inTx(ctx, point, func(tx pgx.Tx) error { return fn(tx, tx) })
	}
	return pg.InTx(ctx, pg.Configured{DB: s.events, Settings: lockBounds}, pg.PointList, func(events pgx.Tx) error {
		return s.inTx(ctx, point, func(tx pgx.Tx) error { return fn(tx, events) })
	})
}

const lockBounds = "set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '60s', true)"

func boundLocks(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "select "+lockBounds)
	return err
}

// sql fills the quoted name of the view schema in.
func (s *Schema) sql(text string) string {
	return strings.ReplaceAll(text, "%SCHEMA%", pgx.Identifier{s.def.Schema}.Sanitize())
}

func (s *Schema) source(ctx context.Context) (*eventstore.Reader, error) {
	r, err := eventstore.Open(ctx, s.events, s.def.Source)
	if errors.Is(err, eventstore.ErrMapping) {
		return nil, fmt.Errorf("%w: %w", ErrDefinition, err)
	}
	return r, err
}

//go:embed bookkeeping/*.sql
var bookkeeping embed.FS

// initLock keeps two processes from creating the bookkeeping tables at once: the first key of an advisory lock, whose
// second is the hash of the schema's name.
const initLock = 0x70726f6a // "proj"

// Init creates the view schema and its bookkeeping tables, or brings them up to date. It may be repeated. It returns the
// names of the files that it applied. Each runs in a transaction of its own, together with the record that it did: the locks of all of them
// at once would be held for as long as the longest wait, and a migration at work might deadlock with them.
func (s *Schema) Init(ctx context.Context) (applied []string, err error) {
	files, err := s.bookkeepingFiles()
	if err != nil {
		return nil, err
	}
	for i, file := range files {
		text, err := fs.ReadFile(s.files, "bookkeeping/"+file)
		if err != nil {
			return applied, err
		}
		did := false
		err = s.inTx(ctx, pg.PointInit, func(tx pgx.Tx) error {
			did, err = s.initStep(ctx, tx, i+1, string(text))
			return err
		})
		if err != nil {
			return applied, fmt.Errorf("creating the bookkeeping tables (%s): %w", file, err)
		}
		if did {
			applied = append(applied, file)
		}
	}
	return applied, nil
}

// PendingInit returns the names of the files that Init would apply. It touches nothing.
func (s *Schema) PendingInit(ctx context.Context) ([]string, error) {
	files, err := s.bookkeepingFiles()
	if err != nil {
		return nil, err
	}
	have, err := s.bookkeepingVersion(ctx, s.db)
	if err != nil {
		return nil, err
	}
	return files[have:], nil
}

// bookkeepingFiles lists the files of the bookkeeping tables in their order.
func (s *Schema) bookkeepingFiles() ([]string, error) {
	files, err := fs.Glob(s.files, "bookkeeping/*.sql")
	for i := range files {
		files[i] = strings.TrimPrefix(files[i], "bookkeeping/")
	}
	return files, err
}

// ensureInit brings the bookkeeping tables up to date, unless the operator wants to do so. Every method that writes them
// begins with it. Where there are none yet, only what begins a life makes them.
func (s *Schema) ensureInit(ctx context.Context, begins bool) error {
	pending, err := s.PendingInit(ctx)
	if err != nil || len(pending) == 0 {
		return err
	}
	files, err := s.bookkeepingFiles()
	switch {
	case err != nil:
		return err
	case len(pending) == len(files) && !begins:
		return nil
	case s.opts.ManualInit:
		return fmt.Errorf("%w: %s; type: init", ErrInit, strings.Join(pending, ", "))
	}
	applied, err := s.Init(ctx)
	if len(applied) > 0 {
		s.opts.Log.Info().Strs("applied", applied).Msg("the bookkeeping tables were brought up to date")
	}
	return err
}

func (s *Schema) initStep(ctx context.Context, tx pgx.Tx, number int, text string) (did bool, err error) {
	// Most calls find everything in place and take no lock.
	if have, err := s.bookkeepingVersion(ctx, tx); err != nil || have >= number {
		return false, err
	}
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1, hashtext($2))", initLock, s.def.Schema); err != nil {
		return false, err
	}
	// Before we look again: to wait for an advisory lock does not tell a session's catalog cache, from which to_regclass answers, what
	// others have made meanwhile. To make a table does.
	if number == 1 {
		if err := s.createSchema(ctx, tx); err != nil {
			return false, err
		}
	}
	if have, err := s.bookkeepingVersion(ctx, tx); err != nil || have >= number {
		return false, err
	}
	if _, err := tx.Conn().PgConn().Exec(ctx, s.sql(text)).ReadAll(); err != nil {
		return false, err
	}
	_, err = tx.Exec(ctx, s.sql("insert into %SCHEMA%.projector_bookkeeping (number) values ($1)"), number)
	return true, err
}

// createSchema leaves an existing schema alone: create schema if not exists wants the right to create one all the same.
func (s *Schema) createSchema(ctx context.Context, tx pgx.Tx) error {
	var exists bool
	if err := tx.QueryRow(ctx, "select exists (select from pg_catalog.pg_namespace where nspname = $1)", s.def.Schema).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := tx.Exec(ctx, s.sql("create schema %SCHEMA%")); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, s.sql(`
		create table if not exists %SCHEMA%.projector_bookkeeping (
			number     integer     primary key,
			applied_at timestamptz not null default now()
		)`))
	return err
}

// bookkeepingVersion returns the number of the last file that was applied, 0 if there is none.
func (s *Schema) bookkeepingVersion(ctx context.Context, q pg.Querier) (number int, err error) {
	var exists bool
	err = q.QueryRow(ctx, "select to_regclass($1) is not null", pg.Once, pg.Table(s.def.Schema, "projector_bookkeeping")).Scan(&exists)
	if err != nil || !exists {
		return 0, err
	}
	if err := q.QueryRow(ctx, s.sql("select coalesce(max(number), 0) from %SCHEMA%.projector_bookkeeping"), pg.Once).Scan(&number); err != nil {
		return 0, err
	}
	files, err := s.bookkeepingFiles()
	if err != nil {
		return 0, err
	}
	if number > len(files) {
		return 0, fmt.Errorf("%w: they were brought up to %d by a newer Projector, and this one knows %d; use the newer one", ErrBookkeeping, number, len(files))
	}
	return number, nil
}

// CurrentVersion returns the version that the database is at; 0 if there is none yet.
func (s *Schema) CurrentVersion(ctx context.Context) (int, error) { return s.currentVersion(ctx, s.db) }

func (s *Schema) currentVersion(ctx context.Context, q pg.Querier) (version int, err error) {
	if have, err := s.bookkeepingVersion(ctx, q); err != nil || have == 0 {
		return 0, err
	}
	return s.activeVersion(ctx, q)
}

// activeVersion is currentVersion where there are bookkeeping tables.
func (s *Schema) activeVersion(ctx context.Context, q pg.Querier) (version int, err error) {
	err = q.QueryRow(ctx, s.sql("select to_version from %SCHEMA%.projector_migrations where state = 'active'"), pg.Once).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if pg.IsUndefined(err) {
		return 0, fmt.Errorf("%w: %w", ErrBookkeeping, err)
	}
	if err != nil {
		return 0, fmt.Errorf("reading the current version: %w", err)
	}
	return version, nil
}
