package viewschema_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/estimate"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

func estimated(t *testing.T, s *viewschema.Schema, o viewschema.EstimateOptions) *viewschema.Estimate {
	t.Helper()
	plan, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Estimate(t.Context(), plan, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func tables(e *viewschema.Estimate) map[string]estimate.Table {
	byName := map[string]estimate.Table{}
	for _, t := range e.Work.Tables {
		byName[t.Name] = t
	}
	return byName
}

// Of tables that do not exist yet, an estimate foresees the rows that a rebuild will make; nothing is touched.
func TestEstimateOfNewTables(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	s := open(t, db, bank.WithoutTransfers())
	e := estimated(t, s, viewschema.EstimateOptions{WorkerCores: 2})
	var made int
	if err := db.QueryRow(t.Context(), "select count(*) from pg_namespace where nspname = 'view_schema'").Scan(&made); err != nil || made > 0 {
		t.Errorf("the estimate has made %d schemas, %v", made, err)
	}
	if e.Total <= 0 || e.Basis.Last != nil || e.Basis.Probe == nil || e.Basis.Probe.Core <= 0 || e.Basis.Probe.Read <= 0 || e.Basis.Probe.Apply <= 0 {
		t.Errorf("there is nothing but a probe to go by: %+v, %+v", e.Basis, e.Basis.Probe)
	}
	if !e.Site.Shared || e.Site.Cores != 2 {
		t.Errorf("the server is here, and we have 2 cores: %+v", e.Site)
	}
	online(t, s)
	foreseen := tables(e)
	for _, table := range []string{"accounts", "transactions", "branch_totals"} {
		rows, bytes, indexes := size(t, db, table+"_3")
		switch f := foreseen[table]; {
		case f.Rows < rows*0.99 || f.Rows > rows*1.01: // the sample is all events
			t.Errorf("%s has %.0f rows, foreseen were %.0f", table, rows, f.Rows)
		case f.Indexes != indexes:
			t.Errorf("%s has %d indexes, foreseen were %d", table, indexes, f.Indexes)
		case rows > 1000 && (f.Bytes < bytes*0.6 || f.Bytes > bytes*1.4):
			t.Errorf("%s has %.0f bytes, foreseen were %.0f", table, bytes, f.Bytes)
		}
	}
}

func size(t *testing.T, db *pgxpool.Pool, table string) (rows, bytes float64, indexes int) {
	t.Helper()
	err := db.QueryRow(t.Context(), `
		select reltuples, pg_relation_size(oid), (select count(*) from pg_index where indrelid = c.oid)
		from pg_class c
		where oid = ('view_schema.' || $1)::regclass`, table).Scan(&rows, &bytes, &indexes)
	if err != nil {
		t.Fatal(err)
	}
	return rows, bytes, indexes
}

// The last rebuild is gone by, and tables that are replaced are as large as those that are live.
func TestEstimateByTheLastRebuild(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, bank.Definition)
	// It was too short to tell anything.
	if e := estimated(t, s, viewschema.EstimateOptions{WorkerCores: 2}); e.Basis.Last != nil || e.Basis.Probe == nil {
		t.Errorf("going by %+v", e.Basis)
	}
	if _, err := db.Exec(t.Context(), `update view_schema.projector_runs set phases = '{"replay": 100, "index": 20}' where command = 'migrate online'`); err != nil {
		t.Fatal(err)
	}
	e := estimated(t, s, viewschema.EstimateOptions{WorkerCores: 2})
	last := e.Basis.Last
	if last == nil || e.Basis.Probe != nil || last.From != 0 || last.To != 1 || last.Events != 10_000 || last.Rows == 0 || last.Workers == 0 {
		t.Fatalf("going by %+v", last)
	}
	// The same tables take as long again, but for how a store as small as this one is cut into batches.
	again := estimated(t, open(t, db, v2Again()), viewschema.EstimateOptions{WorkerCores: 2})
	if said := again.Seconds.Replay; said < 60 || said > 160 {
		t.Errorf("a replay of the same took 100 s, the next one is said to take %.1f s", said)
	}
	rows, bytes, _ := size(t, db, "accounts")
	if f := tables(e)["accounts"]; f.Rows != rows || f.Bytes != bytes {
		t.Errorf("accounts is %.0f rows, %.0f bytes; foreseen were %+v", rows, bytes, f)
	}
	if e.Work.LaneEvents == 0 || e.Work.LaneEvents >= 10_000 {
		t.Errorf("transfers take %.0f of 10,000 events", e.Work.LaneEvents)
	}
	var assumed []string
	for _, a := range e.Assumed {
		if strings.HasPrefix(a, "transfers gets a row") {
			assumed = append(assumed, a)
		}
	}
	if len(assumed) != 1 {
		t.Errorf("nothing tells how many transfers there will be; assumed was %q", e.Assumed)
	}
}

// v2Again replays in version 2 what version 1 has.
func v2Again() viewschema.Definition {
	d := v1.Definition
	d.Versions = projector.Versions{1: d.Versions[1], 2: d.Versions[1]}
	return d
}

// Rates that are given are all that is gone by.
func TestEstimateByRates(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t, filledStore), v1.Definition)
	rates := estimate.Reference()
	rates.Machine, rates.Start = "mine", 1000
	e := estimated(t, s, viewschema.EstimateOptions{Rates: &rates, WorkerCores: 4, ServerCores: 32})
	if e.Basis != (viewschema.Basis{Machine: "mine"}) || e.Seconds.Start != 1000 || e.Site.Shared || e.Site.Cores != 32 {
		t.Errorf("%+v, %+v, %+v", e.Basis, e.Seconds, e.Site)
	}
}

// Events that come meanwhile are counted, and a version that replays nothing has no estimate.
func TestEstimateOfTheTail(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, bank.Definition)
	if e := estimated(t, s, viewschema.EstimateOptions{WorkerCores: 2}); e.Work.Tail != 0 || e.CatchUp.Seconds != 0 {
		t.Errorf("nobody writes: %+v", e.CatchUp)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := db.Exec(t.Context(), `
				insert into events (aggregate_id, sequence_number, event_type, data) values (gen_random_uuid(), 1, 'NewsletterSent', '{}')`); err != nil {
				done <- err
				return
			}
		}
	}()
	e := estimated(t, s, viewschema.EstimateOptions{WorkerCores: 2})
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if e.Work.Tail <= 0 || e.CatchUp.Seconds == 0 {
		t.Errorf("events came: %.1f per second, %+v", e.Work.Tail, e.CatchUp)
	}
	if e := estimated(t, open(t, db, v1.Definition), viewschema.EstimateOptions{}); e != nil {
		t.Errorf("there is nothing to replay: %+v", e)
	}
}
