package viewschema_test

import (
	"strings"
	"testing"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// Status says on which host a worker is, and that it is lost when its process has not been heard of while its session has a batch. The
// batch keeps the host when it is done.
func TestWorkers(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	goOn := heldOpen(t, db, version2(), 0, 1)
	s := open(t, db, version2())
	working := workerWithBatch(t, s)
	if working.Host != "worker-1" || working.HostPID != 4711 || working.Run != recent(t, s)[0].ID || working.State != viewschema.WorkerWorking || working.Seen != nil {
		t.Errorf("at work is %+v", working)
	}
	mustExec(t, db, `
		create function silent() returns trigger language plpgsql as $$ begin new.seen_at = now() - interval '16 s'; return new; end $$;
		create trigger silent before update on view_schema.projector_runs for each row when (new.ended_at is null) execute function silent()`)
	await(t, db, "select exists (select from view_schema.projector_runs where ended_at is null and seen_at < now() - interval '15 s')")
	lost := workerWithBatch(t, s)
	if lost.Batch != working.Batch || lost.PID != working.PID || lost.Host != "worker-1" || lost.State != viewschema.WorkerLost || lost.Seen == nil ||
		!strings.Contains(lost.String(), " on worker-1, pid 4711, server pid ") || !strings.Contains(lost.String(), "; lost, no sign of it since ") {
		t.Errorf("lost is %s, %+v", lost, lost)
	}
	if err := goOn(); err != nil {
		t.Fatal(err)
	}
	if by := scalar[string](t, db, "select worker from view_schema.projector_batches where migration_id = 2 and number = $1", lost.Batch); !strings.Contains(by, " on worker-1 (pid ") {
		t.Errorf("the batch was done by %s", by)
	}
}

func workerWithBatch(t *testing.T, s *viewschema.Schema) viewschema.Worker {
	t.Helper()
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range st.Migration.Workers {
		if w.Batch > 0 {
			return w
		}
	}
	t.Fatalf("no worker has a batch: %v", st.Migration.Workers)
	return viewschema.Worker{}
}
