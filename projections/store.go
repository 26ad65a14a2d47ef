package projections

import "context"

// Store is where a handler's tables keep their rows. It lives as long as one batch or transaction, and belongs to the
// goroutine that calls the handler.
type Store struct {
	run       *Run
	projector *Projector
	models    []*model // of the projector's tables; a few, so that looking through them is fastest
	states    []state
}

// Context ends with the batch or the transaction.
func (s *Store) Context() context.Context { return s.run.ctx }
