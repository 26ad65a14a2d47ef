package cli

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

var update = flag.Bool("update", false, "write the texts in testdata anew")

// golden compares an answer's text with testdata/<name>.txt.
func golden(t *testing.T, name string, a answer) {
	t.Helper()
	var b strings.Builder
	a.text(&b, "bank")
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s differs; got\n%s", file, b.String())
	}
}

func TestPlanText(t *testing.T) {
	t.Parallel()
	full := &viewschema.Plan{
		From: 3, To: 5,
		Projectors: []string{"accounts", "transfers"}, Lane: []string{"transfers"},
		Tables: []viewschema.TableChange{
			{Table: "accounts", Kind: projector.KindReplay, Projector: "accounts", Built: "accounts_5", Archived: "accounts_3", Files: []string{"accounts.sql", "accounts.indexes.sql"}},
			{Table: "branches", Kind: projector.KindReplay, Projector: "branches", Built: "branches_5", Query: "queries/branches.sql", Files: []string{"branches.sql"}},
			{Table: "transactions", Kind: projector.KindAlter, Files: []string{"transactions_4.sql", "transactions_5.sql"}},
			{Table: "cards", Kind: projector.KindDrop, Archived: "cards_3", Files: []string{}},
		},
		Carried: []string{
			"view reporting.balances", "trigger audit of view_schema.accounts", "the place of view_schema.accounts in publication movements",
			"foreign key of_whom of reporting.notes",
		},
		Omitted: []string{"version 4 alters accounts; the replay for version 5 makes it in its newest shape"},
		Events:  3_000_000,
		Batches: 16,
		Reading: &viewschema.Reading{Passes: 2, Layout: eventstore.Layout{Bytes: 12 << 30, Cache: 4 << 30, Rows: 30_000_000, Indexed: true, Correlation: -0.01}},
		Types: viewschema.Types{
			Unknown: []viewschema.TypeCount{{Type: "MoneyDepositd", Events: 1_200, Hint: "did you mean MoneyDeposited?"}, {Type: "CardIssued", Events: 1}},
			Absent:  []viewschema.AbsentType{{Type: "MoneyDeposited", Hint: "did you mean MoneyDepositd?"}, {Type: "CardLost"}},
		},
		Hazards: []viewschema.Hazard{
			{Text: "no cut can be settled: the sequence has a cache of 10; the ledger will have a row for every event"},
			{Blocks: viewschema.StageOffline, Text: "materialized view reporting.sums would stay behind with the archived table accounts_3; drop it before the cutover (drop materialized view reporting.sums) and create it again after"},
			{Text: "index accounts_by_owner of view_schema.accounts is not on the new table; if it is needed, add to accounts.indexes.sql: create index accounts%SUFFIX%_by_owner on accounts%SUFFIX% USING btree (owner)"},
		},
	}
	golden(t, "plan", newPlanView(full))
	golden(t, "plan-alter", newPlanView(&viewschema.Plan{From: 2, To: 3, Events: 1, Tables: full.Tables[2:3]}))
	exact := *full
	exact.Exact = true
	golden(t, "plan-exact", newPlanView(&exact))
	building := &viewschema.Plan{From: 4, To: 5, Projectors: full.Projectors, Tables: full.Tables[:1], Events: 10, Batches: 1, UnderWay: replay.Building, Reading: &viewschema.Reading{Passes: 4, Layout: eventstore.Layout{Bytes: 8 << 20, Cache: 4 << 30}}}
	golden(t, "plan-building", newPlanView(building))
	golden(t, "plan-nothing", newPlanView(&viewschema.Plan{From: 3, To: 3}))
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	building := viewschema.Status{
		Schema: "view_schema", Current: 1, Target: 2,
		Migration: &viewschema.MigrationStatus{
			From: 1, To: 2, State: replay.Building, Phase: "replay", Batches: 16, BatchesDone: 7, Events: 100_000, EventsDone: 43_112,
			Rows: 12_300, Cut: 41_000, Ledger: 12, Lane: &replay.Lane{Position: 20_500, Cut: 41_000, Events: 1_200, Rows: 1}, Created: start,
			Workers: []viewschema.Worker{{Batch: 8, Doing: "batch 8", Program: "projector", PID: 123, Since: &start}, {Batch: 9, Doing: "batch 9", PID: 124}, {Doing: "lane", Program: "projector", PID: 125, Since: &start}},
		},
		Tables: []viewschema.TableStatus{{Table: "accounts", Role: "live", Bytes: 800}, {Table: "accounts_2", Role: "built", Bytes: 5 << 30}},
	}
	golden(t, "status-building", newStatusView(building))
	hosts, shared := building, *building.Migration
	shared.Lane, shared.Workers = nil, []viewschema.Worker{
		{Batch: 8, Doing: "batch 8", Program: "projector", PID: 126, Since: &start, Run: 3, Host: "worker-1", HostPID: 4711, State: viewschema.WorkerWorking},
		{Batch: 9, Doing: "batch 9", Program: "projector", PID: 127, Since: &start, Run: 4, Host: "worker-2", HostPID: 918, State: viewschema.WorkerLost, Seen: &start},
	}
	hosts.Migration = &shared
	hosts.AtWork = []viewschema.RunStatus{
		{ID: 5, Command: "migrate online", Program: "bank 1.2.3", Host: "worker-3", PID: 77, Started: start},
		{ID: 3, Command: "migrate online", Program: "bank 1.2.3", Host: "worker-1", PID: 4711, Started: start},
	}
	golden(t, "status-hosts", newStatusView(hosts))
	parked := building
	for i := range 5 {
		p := viewschema.Parked{Version: 2, State: replay.Building, Parked: replay.Parked{
			Aggregate: fmt.Sprintf("aggregate-%d", i), Position: 812, Sequence: 3, Type: "MoneyDeposited", Projector: "accounts", Error: "no such\nrow", At: start,
		}}
		if i == 0 {
			p.Version, p.State, p.Projector = 1, replay.Active, ""
		}
		parked.Parked = append(parked.Parked, p)
	}
	golden(t, "status-parked", newStatusView(parked))
	golden(t, "parked", parkedView{Aggregates: parked.Parked})
	golden(t, "parked-nothing", parkedView{})

	built := building
	built.Migration = &viewschema.MigrationStatus{
		From: 1, To: 2, State: replay.Built, Phase: "done", Events: 100_000, EventsDone: 100_000, Rows: 30_000,
		CutReason: "the sequence has a cache of 10;\nits minimum is below 1\n", Ledger: 100_000, Tail: 1, Created: start,
		Changed: "file accounts.sql has changed",
	}
	golden(t, "status-built", newStatusView(built))

	golden(t, "status-new", newStatusView(viewschema.Status{Schema: "view_schema", Target: 1}))
	aborting := viewschema.Status{Schema: "view_schema", Target: 2, Migration: &viewschema.MigrationStatus{To: 1, State: replay.Aborting, Phase: "replay", Created: start}}
	golden(t, "status-older", newStatusView(viewschema.Status{Schema: "view_schema", Current: 2, Target: 1}))
	golden(t, "status-aborting", newStatusView(aborting))
}

func TestResultText(t *testing.T) {
	t.Parallel()
	golden(t, "result-online", newResultView("migrate online", viewschema.Result{
		From: 1, To: 2, State: replay.Built, Events: 3_000_000, Rows: 1_500_000, CutReason: "the sequence has a cache of 10", Elapsed: 62 * time.Second,
	}))
	golden(t, "result-online-nothing", newResultView("migrate online", viewschema.Result{From: 2, To: 3, State: replay.Built, Elapsed: time.Second}))
	golden(t, "result-catchup", newResultView("migrate catchup", viewschema.Result{
		From: 1, To: 2, State: replay.Built, Events: 312, Rows: 1, Waiting: "pid 77, bank, since 12:00:01", Elapsed: 40 * time.Millisecond,
	}))
	golden(t, "result-online-parked", newResultView("migrate online", viewschema.Result{
		From: 1, To: 2, State: replay.Built, Events: 3_000_000, Rows: 1_500_000, Parked: 3, Elapsed: 62 * time.Second,
	}))
	golden(t, "result-offline", newResultView("migrate offline", viewschema.Result{
		From: 1, To: 2, State: replay.Active, Events: 12, Rows: 9, HeldOff: 23_400 * time.Microsecond, Elapsed: 2 * time.Second,
	}))
	golden(t, "result-offline-left", newResultView("migrate offline", viewschema.Result{
		From: 1, To: 2, State: replay.Active, HeldOff: 23_400 * time.Microsecond, Elapsed: 2 * time.Second,
		Remaining: []viewschema.Remaining{{
			What: "foreign key of_whom of reporting.notes", Statement: "alter table reporting.notes validate constraint of_whom",
			Error: `ERROR: insert or update on table "notes" violates foreign key constraint "of_whom" (SQLSTATE 23503)`,
		}},
	}))
	golden(t, "result-offline-one", newResultView("migrate offline", viewschema.Result{
		From: 1, To: 2, State: replay.Active, Events: 1, Rows: 1, HeldOff: time.Millisecond, Elapsed: time.Second,
	}))
}

func TestVerificationText(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	differs := viewschema.Verification{From: 1, To: 2, Parked: 1, LiveParked: 2, Apart: "the events are in another database", Elapsed: 1200 * time.Millisecond, Tables: []viewschema.TableComparison{
		{
			Table: "accounts", Key: []string{"id"}, BuiltRows: 12_345, LiveRows: 12_346, OnlyBuilt: 1, OnlyLive: 2, Differ: 3,
			ExpectedColumns: []string{"branch"}, Unseen: []string{"no"}, OnlyBuiltColumns: []string{"iban", "currency"}, OnlyLiveColumns: []string{"note"},
			Columns: []viewschema.ColumnDifference{{Column: "owner", Rows: 3}, {Column: "balance", Rows: 1}},
			Examples: []viewschema.RowExample{
				{Key: map[string]*string{"id": text("7")}, Built: map[string]*string{"owner": text("Ada Lovelace"), "balance": text("-12.5")}},
				{Key: map[string]*string{"id": text("8")}, Live: map[string]*string{"owner": text(""), "balance": nil}},
				{Key: map[string]*string{"id": text("9")}, Built: map[string]*string{"owner": text("null")}, Live: map[string]*string{"owner": text(strings.Repeat("x", 200))}},
			},
		},
		{Table: "branch_totals", New: true},
		{Table: "transactions", Expected: true},
		{Table: "words", BuiltRows: 2, LiveRows: 1, OnlyBuilt: 1, Examples: []viewschema.RowExample{{Built: map[string]*string{"word": text("a")}}}},
	}}
	golden(t, "verification", verificationView{Verification: differs})
	golden(t, "verification-gate", verificationView{Verification: differs, gate: true})
	same := viewschema.Verification{From: 2, To: 1, Rollback: true, Elapsed: time.Second, Tables: []viewschema.TableComparison{{Table: "accounts", BuiltRows: 5, LiveRows: 5}}}
	golden(t, "verification-rollback", verificationView{Same: true, Verification: same})
	golden(t, "verification-nothing", verificationView{Same: true, Verification: viewschema.Verification{From: 2, To: 3}})
}

func TestFormats(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		number(0): "0", number(999): "999", number(-1_000): "-1,000", number(-100): "-100", number(1_234_567): "1,234,567",
		size(1023): "1023 B", size(1536): "1.5 KB", size(1 << 50): "1024.0 TB",
		duration(420 * time.Nanosecond): "0s", duration(23_400 * time.Microsecond): "23ms", duration(4_240 * time.Millisecond): "4.2s",
		duration(192_100 * time.Millisecond): "3m12s",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
