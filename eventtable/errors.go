package eventtable

import "errors"

// Errors that callers tell apart. All come wrapped with what happened and what to do.
var (
	// ErrRefused: what was asked for could break the application, or cannot be done with this relation. Nothing was touched.
	ErrRefused = errors.New("refused")
	// ErrBusy: somebody else prepares the same table.
	ErrBusy = errors.New("the table is being prepared by somebody else")
	// ErrLockWait: a lock could not be had in time. What was done before stays; the same call goes on from there.
	ErrLockWait = errors.New("the lock could not be had")
)
