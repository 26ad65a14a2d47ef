package replay

import "errors"

// ErrState is returned when the migration is not in the state that the work needs: it was aborted, cut over, or is not
// built yet. Nothing has been changed then.
var ErrState = errors.New("the migration is in another state")

// ErrNotParked is returned by RetryParked for an aggregate that is not left out of the tables.
var ErrNotParked = errors.New("the aggregate is not parked")

// ErrMostParked is returned when more aggregates would be parked than may be. None of those that it is about is.
var ErrMostParked = errors.New("too many aggregates would be parked")

// ErrInOrder is returned when the lane cannot go on: nothing can be left out of the order of the store.
var ErrInOrder = errors.New("in the order of the store")

// ErrNoStandby is returned when the server that events are read from was promoted, or when Job.Standby is no standby of the server that
// has the tables. Nothing that it may have by itself was read.
var ErrNoStandby = errors.New("the server that events are read from is not, or no longer, the standby that it was taken for: it was promoted, or follows another primary; " +
	"name another one in --events-url, or none")

// ErrAttached is returned when events have come to the store below the cut, with a partition. Nothing has been changed then.
var ErrAttached = errors.New("events have come that nobody has waited for")

// BatchError tells which batch something went wrong with. The batch is pending again.
type BatchError struct {
	Number int    // in projector_batches
	Doing  string // replaying batch 3f0..40f of version 7
	err    error
}

func (e *BatchError) Error() string { return e.Doing + ": " + e.err.Error() }
func (e *BatchError) Unwrap() error { return e.err }

// ErrAggregates is returned when a row of a SQL table does not derive from the events of one aggregate, whose id it has.
// Nothing of the transaction is left then.
var ErrAggregates = errors.New("each row of a SQL table has to derive from the events of one aggregate")

// QueryError is what PostgreSQL says of the query of a SQL table, with its place.
type QueryError struct{ err error }

func (e *QueryError) Error() string { return e.err.Error() }
func (e *QueryError) Unwrap() error { return e.err }
