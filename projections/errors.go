package projections

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors of Rows and Index. They come wrapped with table and key.
var (
	ErrNotFound = errors.New("no such row")                // the row does not exist
	ErrExists   = errors.New("a row with this key exists") // a row with this key does
	ErrForeign  = errors.New("the row belongs to another aggregate; " + declareShared)
	ErrShared   = errors.New("two aggregates write rows with the same key") // or the same value of another unique index
	ErrKey      = errors.New("the key of a row cannot change")              // a function changed it; Upsert's has to set the one asked for
	ErrNested   = errors.New("a function that changes a row cannot use its table")
	ErrAllRows  = errors.New("a projector with the order ByPosition sees all rows and cannot ask for them all: declare an Index and ask for a group")
	ErrOwner    = errors.New("the table is not among the projector's tables: a table has one owner, and only it sees the rows")
)

// declareShared is what to do about rows that are not one aggregate's.
const declareShared = "a projector sees one aggregate at a time: declare sums, counts, extremes and last values of many as projections.NewTotals, " +
	"or give the projector the order projections.ByPosition or projections.ByPartition"

// ErrSQLTable is Project's: the set has a table that a query fills, and not handlers.
var ErrSQLTable = errors.New("a SQL table cannot be projected in the application's transaction")

// ErrTurn is Project's: the transaction has not taken its turn, so a projector might get its events in another order than the
// store has. See Set.TakeTurn.
var ErrTurn = errors.New("the transaction has not taken its turn")

// EventError tells which event could not be projected, by whom, and why.
type EventError struct {
	Meta
	Projector string // empty: the payload could not be decoded
	Err       error
}

func (e *EventError) Error() string {
	by := ""
	if e.Projector != "" {
		by = "projector " + e.Projector + ": "
	}
	return fmt.Sprintf("%s%s: %v", by, e.title(), e.Err)
}

func (e *EventError) Unwrap() error { return e.Err }

// panicked makes an error of a recovered panic; it must be called by the deferred function that recovered it.
func panicked(value any) error {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for raised, more := false, true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			raised = true
		case raised && !strings.HasPrefix(f.Function, "runtime."):
			return fmt.Errorf("panic: %v (%s:%d)", value, f.File, f.Line)
		}
	}
	return fmt.Errorf("panic: %v", value)
}

// tableError names the table, and where PostgreSQL says it was: for a COPY that is the line and the column.
func tableError(table string, err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		for _, s := range []string{pg.Detail, pg.Where} {
			if s != "" {
				err = fmt.Errorf("%w: %s", err, s)
			}
		}
	}
	return fmt.Errorf("%s: %w", table, err)
}

// violationOf returns the unique violation that err is of; nil if it is of none.
func violationOf(err error) *pgconn.PgError {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "23505" {
		return refused
	}
	return nil
}

// ErrTotals is Run.Forget's: the set has an accumulating table.
var ErrTotals = errors.New("its rows are put together from all aggregates, and what one of them has added cannot be taken out")

// ErrPartition is Project's: a projector with the order ByPartition handles an event that does not say which partition it is of.
var ErrPartition = errors.New("Meta.Partition is not set: it has to be what the mapping's partition makes of the event, or NoPartition if that is NULL")
