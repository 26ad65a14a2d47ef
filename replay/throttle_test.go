package replay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestThrottleKeepsToItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle()
		began := time.Now()
		take := func(events int64) {
			t.Helper()
			if err := throttle.take(t.Context(), events); err != nil {
				t.Fatal(err)
			}
		}
		took := func(want time.Duration) {
			t.Helper()
			if got := time.Since(began); got.Round(time.Second) != want {
				t.Errorf("took %s, want %s", got, want)
			}
			began = time.Now()
		}
		take(1_000_000)
		took(0)
		throttle.Limit(1_000)
		take(60_000)
		took(60 * time.Second)
		go func() { // in the midst of it
			time.Sleep(10 * time.Second)
			throttle.Limit(10_000)
		}()
		take(110_000)
		took(20 * time.Second)
		throttle.Limit(100)
		throttle.HoldBack(true) // what was begun is to end soon
		take(1_000_000)
		took(0)
		throttle.HoldBack(false)
		throttle.Limit(0)
		take(1_000_000)
		took(0)
	})
}

func TestThrottleHoldsBackUntilItIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle()
		if err := throttle.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		throttle.HoldBack(true)
		began := time.Now()
		go func() {
			time.Sleep(time.Hour)
			throttle.HoldBack(false)
		}()
		if err := throttle.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != time.Hour {
			t.Errorf("held back for %s, want 1h", took)
		}
		throttle.HoldBack(true)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errGivenUp)
		if err := throttle.wait(ctx); !errors.Is(err, errGivenUp) {
			t.Errorf("%v, want %v", err, errGivenUp)
		}
	})
}

var errGivenUp = errors.New("given up")
