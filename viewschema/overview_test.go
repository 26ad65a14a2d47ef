package viewschema_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

func overview(t *testing.T, db *pgxpool.Pool, d viewschema.Definition) *viewschema.Overview {
	t.Helper()
	o, err := open(t, db, d).Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// heldOpen runs a migration whose workers stop before they mark a batch as done, from the given one on: when it returns, all of them
// are there. The returned function lets them go on, and waits for the end.
func heldOpen(t *testing.T, db *pgxpool.Pool, d viewschema.Definition, after, workers int) (goOn func() error) {
	t.Helper()
	config := db.Config()
	config.ConnConfig.RuntimeParams["application_name"] = "bank's rebuild"
	named, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(named.Close)
	gate, held := make(chan struct{}), make(chan struct{}, 100)
	var finished atomic.Int32
	s := watched(t, named, d, viewschema.Options{Workers: workers, Runner: viewschema.Runner{Host: "worker-1", PID: 4711}}, &watcher{before: func(sql string) {
		if strings.Contains(sql, "projector_batches") && strings.Contains(sql, "set events =") && finished.Add(1) > int32(after) {
			held <- struct{}{}
			select {
			case <-gate:
			case <-t.Context().Done():
			}
		}
	}})
	ended := make(chan error, 1)
	go func() {
		_, err := s.MigrateOnline(t.Context())
		ended <- err
	}()
	for range workers {
		select {
		case <-held:
		case err := <-ended:
			t.Fatalf("it has ended: %v", err)
		}
	}
	return func() error {
		close(gate)
		return <-ended
	}
}

// The overview tells of each batch what the database knows: done, running by whom, waiting, failed.
func TestOverview(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	idle := overview(t, db, version2())
	if idle.Migration != nil || idle.Chart != nil || len(idle.Batches) > 0 || idle.Grid != viewschema.GridNone || idle.Current != 1 || idle.Target != 2 || len(idle.Tables) == 0 {
		t.Errorf("before: %+v", idle)
	}

	goOn := heldOpen(t, db, version2(), 2, 2)
	o := overview(t, db, v1.Definition) // of any release
	states, covered := map[viewschema.BatchState]int{}, make([]int, 4096)
	var done int64
	next := 0 // that waits
	for _, b := range o.Batches {
		if b.Phase != "replay" {
			continue
		}
		states[b.State]++
		for cell := b.From; cell <= b.To; cell++ {
			covered[cell]++
		}
		switch b.State {
		case viewschema.BatchWaiting:
			next = b.Number
		case viewschema.BatchDone:
			done += b.Events
			if b.Rows == 0 || b.Worker == "" || b.Seconds <= 0 {
				t.Errorf("a batch that is done is %+v", b)
			}
		case viewschema.BatchRunning:
			if !strings.HasPrefix(b.Worker, "bank's rebuild on worker-1 (pid ") || b.Started == nil || b.Done != nil {
				t.Errorf("a batch that runs is %+v", b)
			}
		}
	}
	if fmt.Sprint(states) != "map[done:2 running:2 waiting:1]" {
		t.Errorf("the batches are %v", states)
	}
	for cell, n := range covered {
		if n != 1 {
			t.Fatalf("%d batches have partition %03x", n, cell)
		}
	}
	if want := scalar[int64](t, db, "select sum(events) from view_schema.projector_batches where migration_id = 2"); done != want || o.Migration.EventsDone != want {
		t.Errorf("%d events are done, want %d", done, want)
	}
	if o.Migration.PerSecond <= 0 || o.Migration.Left == nil || len(o.Chart.Buckets) == 0 || o.Grid != viewschema.GridPartitions {
		t.Errorf("%+v, chart %+v, grid %q", o.Migration, o.Chart, o.Grid)
	}
	if len(o.Migration.Workers) < 2 || len(o.Batches) < 7 || o.Migration.State != "building" || o.Migration.From != 1 || o.Migration.To != 2 {
		t.Errorf("%+v", o)
	}

	// What the runs say of their errors, of which there may be payloads in one column.
	mustExec(t, db, `
		insert into view_schema.projector_runs (migration_id, command, from_version, to_version, started_at, seen_at, ended_at, outcome, error, failed, failed_batch)
		select 2, 'migrate online', 1, 2, now() - i * interval '1 minute', now(), case when i < 11 then now() - i * interval '1 second' end,
			case when i < 11 then 'failed' end, 'iban NL00', 'event 7: decode', case i when 1 then $1::int end
		from generate_series(12, 1, -1) i`, next)
	mustExec(t, db, "insert into view_schema.projector_throttles (migration_id, max_events_per_second, max_lag) values (2, 500, '10 s')")
	mustExec(t, db, `insert into view_schema.projector_parked_events (migration_id, aggregate_id, position, sequence, event_type, projector, error)
		values (2, '00000000-0000-4000-8000-000000000001', 7, 1, 'AccountOpened', 'accounts', 'iban NL00')`)
	o = overview(t, db, version2())
	var failed, waiting []viewschema.Batch
	for _, b := range o.Batches {
		switch {
		case b.State == viewschema.BatchFailed:
			failed = append(failed, b)
		case b.State == viewschema.BatchWaiting && b.Phase == "replay":
			waiting = append(waiting, b)
		}
	}
	if len(failed) != 1 || len(waiting) != 0 {
		t.Errorf("failed are %+v, waiting are %+v", failed, waiting)
	}
	outcomes := map[viewschema.Outcome]int{}
	for _, r := range o.Runs {
		outcomes[r.Outcome]++
		if r.Outcome == viewschema.OutcomeFailed && r.Failed != "event 7: decode" {
			t.Errorf("a run that has failed is %+v", r)
		}
	}
	if fmt.Sprint(outcomes) != "map[failed:10 working:3]" {
		t.Errorf("the runs are %v", outcomes)
	}
	if throttle := o.Migration.Throttle; throttle == nil || throttle.MaxEventsPerSecond != 500 || throttle.MaxLag != 10*time.Second {
		t.Errorf("the throttle is %+v", throttle)
	}
	text, err := json.Marshal(o)
	if err != nil || strings.Contains(string(text), "NL00") {
		t.Errorf("a payload is told: %v\n%s", err, text)
	}
	if len(o.Parked) != 1 {
		t.Errorf("parked are %+v", o.Parked)
	}

	mustExec(t, db, "delete from view_schema.projector_parked_events")
	if err := goOn(); err != nil {
		t.Fatal(err)
	}
	o = overview(t, db, version2())
	for _, b := range o.Batches {
		if b.State != viewschema.BatchDone {
			t.Errorf("when it is built, a batch is %+v", b)
		}
	}
	if o.Migration.PerSecond != 0 || o.Migration.Left != nil || len(o.Chart.Buckets) == 0 || o.Migration.State != "built" {
		t.Errorf("when it is built: %+v, %+v", o.Migration, o.Chart)
	}
	mustExec(t, db, openAccount)
	if o = overview(t, db, version2()); o.Migration.Tail != 1 {
		t.Errorf("the tail has %d events", o.Migration.Tail)
	}

	// Bookkeeping of an older Projector.
	mustExec(t, db, "drop table view_schema.projector_runs, view_schema.projector_throttles")
	if o = overview(t, db, version2()); len(o.Runs) > 0 || o.Migration.Throttle != nil || len(o.Batches) < 7 {
		t.Errorf("without runs: %+v", o)
	}
}

// In the way is who may bring events, however short; and who is in a transaction for long, if it is not one of us who reads.
func TestOverviewInTheWay(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	config := db.Config()
	config.ConnConfig.RuntimeParams["application_name"] = "projector"
	ours, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ours.Close)
	s := open(t, ours, version2())
	check := func(what string, long time.Duration, want string) {
		t.Helper()
		got, err := s.InTheWay(t.Context(), long)
		pid := ""
		if got != nil {
			pid = fmt.Sprintf("pid %d", got.PID)
		}
		if err != nil || pid != want {
			t.Errorf("%s: %+v, %v; want %s", what, got, err, want)
		}
	}
	check("nobody", time.Minute, "")
	hold(t, ours, "select count(*) from events")
	check("a worker that reads", 0, "")
	reader, end := hold(t, db, "select count(*) from events")
	check("a report", time.Minute, "")
	check("a long report", 0, reader)
	writer, _ := hold(t, db, "lock table events in row exclusive mode")
	check("a writer", time.Minute, writer)
	check("a writer, and a long report", 0, reader)
	end()
	check("a writer, when the report has ended", 0, writer)
	if o := overview(t, db, version2()); o.InTheWay == nil || o.InTheWay.State != "idle in transaction" || o.InTheWay.Since == nil {
		t.Errorf("in the way is %+v", o.InTheWay)
	}
}

// A batch that has failed is told of until somebody takes it up again, and why it did, without what is in the event.
func TestOverviewOfAFailure(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	mustExec(t, db, `insert into events (aggregate_id, sequence_number, event_type, data)
		values ('ff000000-0000-4000-8000-000000000001', 1, 'MoneyDeposited', '{"amount": "a secret"}')`)
	if _, err := open(t, db, version2()).MigrateOnline(t.Context()); err == nil {
		t.Fatal("it has not failed")
	}
	o := overview(t, db, version2())
	var failed []viewschema.Batch
	for _, b := range o.Batches {
		if b.State == viewschema.BatchFailed {
			failed = append(failed, b)
		}
	}
	if len(failed) != 1 || failed[0].To != 0xfff {
		t.Errorf("failed are %+v", failed)
	}
	if r := o.Runs[0]; r.Outcome != viewschema.OutcomeFailed || r.Command != "migrate online" || !strings.Contains(r.Failed, "aggregate ff000000-") || r.Ended == nil {
		t.Errorf("the run is %+v", r)
	}
	if text, err := json.Marshal(o); err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("the payload is told: %v\n%s", err, text)
	}
}

// A database without a view schema is one where nothing is under way.
func TestOverviewOfNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	if o := overview(t, db, v1.Definition); o.Migration != nil || o.Current != 0 || o.Runs == nil || o.Batches == nil {
		t.Errorf("%+v", o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, db, v1.Definition).Overview(ctx); err == nil {
		t.Error("an overview whose context has ended")
	}
}
