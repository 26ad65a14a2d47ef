package replay

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/time/rate"
)

// Throttle slows the jobs of a process down, or holds them back. It may be changed while they run, by any goroutine. A nil one
// does neither.
type Throttle struct {
	limiter *rate.Limiter // of events

	mu      sync.Mutex
	holding bool
	changed chan struct{} // closed when holding changes
}

// NewThrottle returns one that does not throttle.
func NewThrottle() *Throttle {
	return &Throttle{limiter: rate.NewLimiter(rate.Inf, 1), changed: make(chan struct{})}
}

// Limit sets how many events per second are applied; 0: any number.
func (t *Throttle) Limit(perSecond float64) {
	if perSecond == 0 {
		t.limiter.SetLimit(rate.Inf)
		return
	}
	t.limiter.SetBurst(max(1, int(perSecond))) // of one second
	t.limiter.SetLimit(rate.Limit(perSecond))
}

// HoldBack keeps new batches, groups and tables from being begun, or no longer does. What is under way is finished.
func (t *Throttle) HoldBack(hold bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holding != hold {
		t.holding = hold
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// errHeld ends a statement that reads for what may not be begun.
var errHeld = errors.New("held back")

// held says whether nothing new may be begun. Whoever has a transaction open ends it then, and waits without one: it can take
// for hours.
func (t *Throttle) held() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holding
}

// wait returns when something new may be begun.
func (t *Throttle) wait(ctx context.Context) error {
	if t == nil {
		return nil
	}
	for {
		t.mu.Lock()
		holding, changed := t.holding, t.changed
		t.mu.Unlock()
		if !holding {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// take counts events that are applied, and waits as long as the limit asks for: at most a second at a time, and for each other that waits,
// so that a new limit is soon kept to. ctx has no deadline. When nothing new may be begun, it does not wait: what was begun ends soon then,
// and with it its transactions.
func (t *Throttle) take(ctx context.Context, events int64) error {
	for t != nil && events > 0 && t.limiter.Limit() != rate.Inf && !t.held() {
		n := int(min(events, int64(t.limiter.Burst())))
		if err := t.limiter.WaitN(ctx, n); err == nil {
			events -= int64(n)
		} else if ctx.Err() != nil {
			return context.Cause(ctx)
		} // else the limit was lowered since it was looked at
	}
	return nil
}
