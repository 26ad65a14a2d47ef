package viewschema_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// conflict has the standby cancel what reads events there at this moment.
func (r replicated) conflict(t *testing.T) {
	t.Helper()
	mustExec(t, r.primary, "begin; lock table events in access exclusive mode; commit")
	r.replayed(t)
}

// newConflicting is a database whose standby cancels at once what is in the way of WAL, and does so to those reads that cancels says.
func newConflicting(
	t *testing.T, setup pgtest.Setup, d viewschema.Definition, o viewschema.Options, cancels func() bool,
) (r replicated, onStandby *watcher) {
	t.Helper()
	onStandby = &watcher{}
	onStandby.after = func(sql string) {
		if reads(sql) && cancels() {
			r.conflict(t)
		}
	}
	r = newReplicatedAt(t, setup, d, o, map[string]string{"max_standby_streaming_delay": "0"}, &watcher{}, onStandby)
	return r, onStandby
}

// What the replay of WAL cancels is read again, in passes of fewer batches.
func TestStandbyConflict(t *testing.T) {
	t.Parallel()
	log := throughConflicts(t, filledStore, v1.Definition, viewschema.Options{Workers: 1}) // one reader, whose pass is all batches
	for _, batches := range []string{`"batches":5,"message":"reading fewer batches at once`, `"batches":3,"message":"reading fewer batches at once`} {
		if !strings.Contains(log, batches) {
			t.Errorf("the log has no %s:\n%s", batches, log)
		}
	}
}

// The same, with a lane, and while several read.
func TestStandbyConflictOfSeveral(t *testing.T) {
	t.Parallel()
	throughConflicts(t, atVersion1, version2(), viewschema.Options{})
}

// throughConflicts migrates through some conflicts, and returns the log.
func throughConflicts(t *testing.T, setup pgtest.Setup, d viewschema.Definition, o viewschema.Options) (log string) {
	t.Helper()
	var reads atomic.Int64
	r, w := newConflicting(t, setup, d, o, func() bool { return reads.Add(1) <= 3 })
	online(t, r.Schema)
	reads.Store(0)
	mustExec(t, r.primary, openAccount)
	if _, err := r.CatchUp(t.Context()); err != nil {
		t.Error(err)
	}
	offline(t, r.Schema)
	verify(t, r.primary, r.Target(), "accounts")
	return w.log()
}

// A catch-up that the standby cancels each time goes on from the primary.
func TestStandbyConflictInCatchUp(t *testing.T) {
	t.Parallel()
	var catchingUp atomic.Bool
	d := v1.Definition // has no lane, which cannot go on from the primary
	r, _ := newConflicting(t, emptyStore, d, viewschema.Options{}, catchingUp.Load)
	online(t, r.Schema)
	mustExec(t, r.primary, openAccount)
	catchingUp.Store(true)
	if done, err := r.CatchUp(t.Context()); err != nil || done.Events != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// What the standby cancels each time is an error that says which of its settings is to blame; what is done stays.
func TestStandbyConflictForEver(t *testing.T) {
	t.Parallel()
	var reads atomic.Int64
	r, _ := newConflicting(t, atVersion1, version2(), viewschema.Options{}, func() bool { return reads.Add(1) > 1 })
	_, err := r.MigrateOnline(t.Context())
	conflict, ok := errors.AsType[*replay.ConflictError](err)
	if !ok || conflict.Delay != "0" || conflict.Feedback != "off" || !strings.Contains(err.Error(), "hot_standby_feedback = on") {
		t.Fatalf("%v", err)
	}
	online(t, open(t, r.primary, version2())) // reads the primary
	offline(t, open(t, r.primary, version2()))
	verify(t, r.primary, 2)
}
