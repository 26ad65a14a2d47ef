package replay

import "errors"

// ErrState is returned when the migration is not in the state that the work needs: it was aborted, cut over, or is not
// built yet. Nothing has been changed then.
var ErrState = errors.New("the migration is in another state")
