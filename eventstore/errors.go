package eventstore

import "errors"

// ErrMapping is returned by Open when the mapping does not fit the database: no such relation or column, a type that
// cannot be what the mapping says, a preset whose table is not there; and by Settle if the positions cannot be what it says. The
// text names all that is wrong.
var ErrMapping = errors.New("the event table does not fit the mapping")
