package viewschema

import (
	"errors"

	"github.com/viewschema/projector/replay"
)

// Errors that callers tell apart. All come wrapped with what happened and what to do.
var (
	// ErrDefinition: the definition contradicts itself, its SQL files or the database. Nothing was touched.
	ErrDefinition = errors.New("the definition has errors")
	// ErrRefused: what was asked for could lose data or break readers. Nothing was touched.
	ErrRefused = errors.New("refused")
	// ErrChanged: a migration to this version was begun with another definition. Nothing was touched.
	ErrChanged = errors.New("the definition has changed since the migration began")
	// ErrOtherMigration: a migration to another version is under way. Nothing was touched.
	ErrOtherMigration = errors.New("another migration is under way")
	// ErrBelowCurrent: the database is at a higher version than the definition. Nothing was touched.
	ErrBelowCurrent = errors.New("the database is ahead of the definition")
	// ErrVersion is Guard's: the view schema is at another version than the code.
	ErrVersion = errors.New("the view schema is at another version")
	// ErrBookkeeping: the bookkeeping tables are damaged, or a newer Projector's. Nothing was touched.
	ErrBookkeeping = errors.New("the bookkeeping tables are not as expected")
	// ErrInit: the bookkeeping tables are older than this Projector, and Options.ManualInit is set. Nothing was touched.
	ErrInit = errors.New("the bookkeeping tables are not up to date")
	// ErrSpace: a volume of the server has less space left than is to stay free. Batches in flight were rolled back; what was committed
	// stays, and the same command goes on when there is more.
	ErrSpace = errors.New("too little disk space")
	// ErrState: the migration is not in the state that the command needs.
	ErrState = replay.ErrState
	// ErrAggregates: a row of a SQL table does not derive from one aggregate. The batch, or the group, left nothing.
	ErrAggregates = replay.ErrAggregates
	// ErrLockWait: the cutover could not get its locks in time. Nothing was changed; the migration is still built.
	ErrLockWait = errors.New("the locks for the cutover could not be had")
	// ErrLockLost: with events in another database, the lock that held off writers there was lost while the cutover committed
	// here. The new version is live, and may lack events that were appended in between.
	ErrLockLost = errors.New("the lock on the events was lost during the commit of the cutover")
)
