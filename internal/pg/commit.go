package pg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Point names a kind of commit: a crash there separates what is done from what is not. Every transaction that writes has
// one, so that a test can crash the program at each.
type Point string

// The commits of the program.
const (
	PointInit         Point = "init"          // a file of bookkeeping tables
	PointBegin        Point = "begin"         // the migration, its tables and batches
	PointBatch        Point = "batch"         // rows, ledger entries and done mark of a batch
	PointBuilt        Point = "built"         // the end of the building
	PointList         Point = "list"          // what there is to do or was done; writes nothing
	PointLane         Point = "lane"          // rows and position of a slice of the ordered lane
	PointGroup        Point = "group"         // rows and ledger entries of a group of a catch-up
	PointPark         Point = "park"          // aggregates that are left out, with their errors
	PointRetry        Point = "retry"         // rows and ledger entries of an aggregate that was parked
	PointCut          Point = "cut"           // the end of a catch-up
	PointCutover      Point = "cutover"       // new names and new version
	PointAborting     Point = "aborting"      // the beginning of an abort
	PointAbort        Point = "abort"         // its end
	PointCreateTables Point = "create tables" // development: the tables
	PointReplay       Point = "replay"        // development: their rows
	PointComplete     Point = "complete"      // after a cutover: a foreign key that is validated, statistics
	PointTakeBack     Point = "take back"     // the beginning of a rollback
	PointClean        Point = "clean"         // the drop of an archived table
	PointPrepare      Point = "prepare"       // a statement, or a transaction, that changes the event table
	PointFill         Point = "fill"          // event table: a batch of rows that get a position
)

// Points are all of them, in the order in which a migration comes to them.
var Points = []Point{
	PointInit, PointBegin, PointBatch, PointLane, PointBuilt, PointList, PointGroup, PointPark, PointRetry, PointCut, PointCutover, PointAborting, PointAbort,
	PointCreateTables, PointReplay, PointComplete, PointTakeBack, PointClean, PointPrepare, PointFill,
}

// Moment is before or after a commit.
type Moment string

// The moments of a commit at which a fault can be placed.
const (
	Before Moment = "before"
	After  Moment = "after"
)

type faultKey struct{}

// WithFault returns a context whose transactions call fault before and after each commit: for tests of crashes.
func WithFault(ctx context.Context, fault func(Moment, Point)) context.Context {
	return context.WithValue(ctx, faultKey{}, fault)
}

// Fault is called around what commits without InTx: statements that PostgreSQL refuses in a transaction.
func Fault(ctx context.Context, moment Moment, point Point) {
	if fault, ok := ctx.Value(faultKey{}).(func(Moment, Point)); ok {
		fault(moment, point)
	}
}

// Beginner starts transactions: a connection or a pool.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// Configured begins transactions with settings of their own, which come in the round trip of their beginning.
type Configured struct {
	DB       Beginner
	Settings string // a select list of set_config
}

// BeginTx is for transactions with an isolation level and nothing else.
func (c Configured) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	o.BeginQuery = "begin isolation level " + string(o.IsoLevel) + "; select " + c.Settings
	return c.DB.BeginTx(ctx, o)
}

// cleanUp bounds what still has to be said to the server after the caller's context has ended.
const cleanUp = 5 * time.Second

// InTx runs fn in a READ COMMITTED transaction of its own, commits if fn returns nil and rolls back otherwise. The
// isolation level is part of the promise, whatever default_transaction_isolation says: statements have to see what was
// committed while the transaction waited for a lock. The roll-back does not depend on ctx, so a canceled batch gives its
// locks back at once, and it never hides fn's error.
//
// A commit that fails may have happened all the same, if the connection was lost while it was under way.
func InTx(ctx context.Context, db Beginner, point Point, fn func(tx pgx.Tx) error) error {
	return inTx(ctx, db, pgx.ReadCommitted, point, fn)
}

// InSnapshot is InTx with all statements in one snapshot, that of the first: REPEATABLE READ. If fn changes or locks a row that
// somebody has changed since, it fails: see IsRetryable. A lock FOR KEY SHARE is an exception: it fails if whoever changed the
// row had it FOR UPDATE first, and gets the row as it was if not.
func InSnapshot(ctx context.Context, db Beginner, point Point, fn func(tx pgx.Tx) error) error {
	return inTx(ctx, db, pgx.RepeatableRead, point, fn)
}

func inTx(ctx context.Context, db Beginner, level pgx.TxIsoLevel, point Point, fn func(tx pgx.Tx) error) (err error) {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
	if err != nil {
		return err
	}
	done := false
	defer func() { // also when fn panics
		if !done {
			c, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
			defer cancel()
			_ = tx.Rollback(c) // the first error is the one to report; the pool drops a broken connection
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	Fault(ctx, Before, point)
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit of %s: %w", point, err)
	}
	done = true
	Fault(ctx, After, point)
	return nil
}
