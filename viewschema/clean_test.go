package viewschema_test

import (
	"testing"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
)

// The last archived table takes the ledger along, which tells for it, too, which events it has, and which is as large as the
// store where no cut can be settled. The live tables stay.
func TestCleanForgetsTheLedger(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	d := bank.WithoutTransfers()
	d.Source.Positions = eventstore.PositionsDrawnAhead
	s := open(t, db, d)
	online(t, s)
	offline(t, s)
	mustExec(t, db, "create table public.keeper (id uuid references view_schema.accounts_1)")
	tables, err := s.ArchivedTables(t.Context(), 0)
	if err != nil || len(tables) != 1 || len(tables[0].Dependents) != 1 {
		t.Fatalf("archived tables: %+v, %v", tables, err)
	}
	if dropped, err := s.Clean(t.Context(), tables); err != nil || len(dropped) != 0 {
		t.Errorf("dropped %+v, %v", dropped, err)
	}
	tables[0].Dependents = nil // as if the foreign key had come since they were listed
	if dropped, err := s.Clean(t.Context(), tables); err == nil || len(dropped) != 0 {
		t.Errorf("dropped %+v, %v", dropped, err)
	}
	if n := scalar[int64](t, db, "select count(*) from view_schema.projector_replayed_ids"); n < 10_000 {
		t.Errorf("the ledger has %d events", n)
	}
	mustExec(t, db, "drop table public.keeper")
	for range 2 { // the second time, somebody else has dropped it
		if _, err := s.Clean(t.Context(), tables); err != nil {
			t.Fatal(err)
		}
	}
	if n := scalar[int64](t, db, "select count(*) from view_schema.projector_replayed_ids"); n != 0 {
		t.Errorf("the ledger has %d events", n)
	}
	verify(t, db, 3)
}
