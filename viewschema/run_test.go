package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// Every command that changes something leaves a record of who, when, what and for how long, and it outlives the migration.
func TestRuns(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	by := viewschema.Runner{Program: "bank 2", Host: "db1", User: "ada", PID: 7}
	s, err := viewschema.Open(db, version2(), viewschema.Options{Runner: by})
	if err != nil {
		t.Fatal(err)
	}
	online(t, s)
	mustExec(t, db, openAccount)
	if _, err := s.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	online(t, s)
	mustExec(t, db, openAnother)
	offline(t, s)

	runs := recent(t, s)
	var commands []string
	for _, r := range runs[:5] {
		commands = append(commands, r.Command)
		if r.Outcome != viewschema.OutcomeDone || r.Ended == nil || r.Ended.Before(r.Started) || r.From != 1 || r.To != 2 || r.Error != "" {
			t.Errorf("%+v", r)
		}
		if got := (viewschema.Runner{Program: r.Program, Host: r.Host, User: r.User, PID: r.PID}); got != by || r.Role == "" {
			t.Errorf("%s by %+v as %q", r.Command, got, r.Role)
		}
	}
	if want := []string{"migrate offline", "migrate online", "migrate abort", "migrate catchup", "migrate online"}; !slices.Equal(commands, want) {
		t.Errorf("%q, want %q", commands, want)
	}
	if r := runs[0]; r.Events != 1 || r.Rows == 0 || r.HeldOff == 0 {
		t.Errorf("the cutover: %+v", r)
	}
	for _, phase := range []string{"replay", "merge", "index", "analyze"} {
		if _, ok := runs[1].Phases[phase]; !ok {
			t.Errorf("phase %s is not among %v", phase, runs[1].Phases)
		}
	}
	if r := runs[1]; r.Events != 10_001 || r.Rows == 0 {
		t.Errorf("the rebuild: %+v", r)
	}
	if r := runs[3]; r.Events != 1 || r.Rows == 0 {
		t.Errorf("the catch-up: %+v", r)
	}
}

const openAnother = `
	insert into events (aggregate_id, sequence_number, event_type, data)
	values ('0a000000-0000-4000-8000-00000000000b', 1, 'AccountOpened', '{"owner": "Grace", "branch": "north", "currency": "EUR"}')`

func recent(t *testing.T, s *viewschema.Schema) []viewschema.Run {
	t.Helper()
	runs, err := s.Runs(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// What went wrong is recorded with the batch that it is about, and once more without what it quotes of the payload.
func TestRunsThatFail(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	position := scalar[int64](t, db, `
		update events set data = '["4711"]' where position = (select min(position) from events where event_type = 'AccountOpened') returning position`)
	s := open(t, db, byAggregate())
	_, err := s.MigrateOnline(t.Context())
	if _, ok := errors.AsType[*projections.EventError](err); !ok {
		t.Fatal(err)
	}
	r := recent(t, s)[0]
	if r.Outcome != viewschema.OutcomeFailed || !strings.HasPrefix(r.Error, "replaying batch ") {
		t.Errorf("%+v", r)
	}
	if !strings.HasSuffix(r.Failed, ") could not be decoded") || !strings.Contains(r.Failed, fmt.Sprintf(" of version 2: event %d (AccountOpened, aggregate ", position)) {
		t.Errorf("%s", r.Failed)
	}
	if !scalar[bool](t, db, `
		select coalesce(b.from_id::uuid <= e.aggregate_id, true) and coalesce(b.to_id::uuid > e.aggregate_id, true)
		from view_schema.projector_runs r
		join view_schema.projector_batches b on b.migration_id = r.migration_id and b.number = r.failed_batch, events e
		where e.position = $1`, position) {
		t.Error("another batch is recorded than that of the event")
	}

	ctx, cancel := context.WithCancel(t.Context())
	interrupted := watched(t, db, byAggregate(), viewschema.Options{}, &watcher{before: func(sql string) {
		if strings.Contains(sql, "skip locked") {
			cancel()
		}
	}})
	if _, err := interrupted.MigrateOnline(ctx); err == nil {
		t.Error("it was not interrupted")
	}
	if r := recent(t, s)[0]; r.Outcome != viewschema.OutcomeInterrupted {
		t.Errorf("%+v", r)
	}

	mustExec(t, db, "update view_schema.projector_runs set ended_at = null, outcome = null, seen_at = now() - interval '1 min'")
	if r := recent(t, s)[0]; r.Outcome != viewschema.OutcomeSilent {
		t.Errorf("%+v", r)
	}
}
