package viewschema_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// branch is a row per branch of the bank, made of the events of all its accounts: of which branch an event is, the store tells.
type branch struct {
	bun.BaseModel `bun:"table:branches"`
	Name          string `bun:"name,pk" view:"aggregate"`
	Opened        int64  `bun:"opened"`
	LastIBAN      string `bun:"last_iban"` // depends on the order of the accounts
}

var branches = projections.NewRows(func(b *branch) string { return b.Name })

var branchesProjector = &projections.Projector{
	Name: "branches", Order: projections.ByPartition, Tables: []projections.Table{branches},
	Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[bank.Opened]) error {
		return branches.Upsert(s, e.Partition.String(), func(b *branch, _ bool) {
			b.Name, b.Opened, b.LastIBAN = e.Partition.String(), b.Opened+1, e.Data.IBAN
		})
	})},
}

// byBranch has the table branches; events other than of accounts that are opened have no partition.
func byBranch() viewschema.Definition {
	return viewschema.Definition{
		Source:     eventstore.Mapping{Partition: "(e.data ->> 'branch')"},
		Events:     bank.Events,
		Projectors: []*projections.Projector{branchesProjector},
		Versions:   projector.Versions{1: {projector.Replay(branchesProjector)}},
		Views: fstest.MapFS{"branches.sql": &fstest.MapFile{
			Data: []byte("create table branches%SUFFIX% (name text primary key, opened bigint not null, last_iban text not null)"),
		}},
	}
}

const branchesDiffer = `
	with wanted as (
		select data ->> 'branch' as name, count(*) as opened, (array_agg(data ->> 'iban' order by position desc))[1] as last_iban
		from events where event_type = 'AccountOpened' group by 1
	)
	select count(*) from (
		(select name, opened, last_iban from view_schema.branches except select name, opened, last_iban from wanted) union all
		(select name, opened, last_iban from wanted except select name, opened, last_iban from view_schema.branches)) d`

// A migration may have ordered projectors alone. Its rows are those of the store's order in each of its ways.
func TestByPartition(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	s := open(t, db, byBranch())
	check := func(when string) {
		t.Helper()
		var differ int
		if err := db.QueryRow(t.Context(), branchesDiffer).Scan(&differ); err != nil || differ != 0 {
			t.Errorf("%s: %d rows differ, %v", when, differ, err)
		}
	}
	if r := online(t, s); r.Rows != 4 || r.Events == 0 {
		t.Errorf("%+v", r)
	}
	appendOpened := func() {
		t.Helper()
		if _, err := db.Exec(t.Context(), openAccount); err != nil {
			t.Fatal(err)
		}
	}
	appendOpened()
	if r, err := s.CatchUp(t.Context()); err != nil || r.Events != 1 || r.Cut != 10_001 {
		t.Errorf("%+v, %v", r, err)
	}
	appendOpened()
	if st, err := s.Status(t.Context()); err != nil || st.Migration.Tail != 1 || st.Migration.Lane == nil || st.Migration.Lane.Position != 10_001 {
		t.Errorf("%+v, %v", st.Migration, err)
	}
	offline(t, s)
	check("after the cutover")
	if _, err := s.ReplayAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("replayed")
}

// What has no order is refused before anything is made, and plan has said so.
func TestOrdersThatTheStoreDoesNotHave(t *testing.T) {
	t.Parallel()
	unpartitioned := byBranch()
	unpartitioned.Source.Partition = ""
	ahead := version2()
	ahead.Source.Positions = eventstore.PositionsDrawnAhead
	for want, d := range map[string]viewschema.Definition{
		"projector branches has the order ByPartition, and the source names no partition":                                             unpartitioned,
		"projector transfers has the order ByPosition, and the store has none that can be relied on: the mapping says that positions": ahead,
	} {
		db := pgtest.Database(t, filledStore)
		s := open(t, db, d)
		plan, err := s.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(plan.Hazards, func(h viewschema.Hazard) bool {
			return h.Blocks == viewschema.StageOnline && strings.Contains(h.Text, want)
		}) {
			t.Errorf("plan does not say %q: %+v", want, plan.Hazards)
		}
		if _, err := s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if st, err := s.Status(t.Context()); err != nil || st.Migration != nil {
			t.Errorf("%+v, %v", st.Migration, err)
		}
	}
}

// A writer that outlasts --cut-timeout would leave the order open: it is named.
func TestOrderWithAnOpenWriter(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	late := lateCommit(t, db)
	var pid string
	if err := late.QueryRow(t.Context(), "select 'pid ' || pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	impatient, err := viewschema.Open(db, version2(), viewschema.Options{CutTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, err = impatient.MigrateOnline(t.Context())
	if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), pid) || !strings.Contains(err.Error(), "transfers") {
		t.Errorf("got %v; want it to name %s", err, pid)
	}
	commit(t, late)
	if _, err := impatient.MigrateOnline(t.Context()); err != nil {
		t.Error(err)
	}
}

// Without an index on the positions, and with a transfer that is under way across the start, a catch-up and the cutover.
func TestTransfersWithoutAnIndex(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	if _, err := db.Exec(t.Context(), "alter table events drop constraint events_pkey"); err != nil {
		t.Fatal(err)
	}
	s := open(t, db, version2())
	var from, to uuid.UUID
	if err := db.QueryRow(t.Context(), `
		select min(aggregate_id::text)::uuid, max(aggregate_id::text)::uuid
		from events e
		where not exists (select from events c where c.aggregate_id = e.aggregate_id and c.event_type = 'AccountClosed')`).Scan(&from, &to); err != nil {
		t.Fatal(err)
	}
	event := func(account uuid.UUID, typ, data string) {
		t.Helper()
		_, err := db.Exec(t.Context(), `
			insert into events (aggregate_id, sequence_number, event_type, data)
			select $1, max(sequence_number) + 1, $2, $3::jsonb from events where aggregate_id = $1`, account, typ, data)
		if err != nil {
			t.Fatal(err)
		}
	}
	const sent, received = `{"transfer_id": "00000000-0000-0000-0000-00000000000%", "amount": 5, "to_iban": "X"}`,
		`{"transfer_id": "00000000-0000-0000-0000-00000000000%", "amount": 5, "from_iban": "Y"}`
	for _, n := range []string{"1", "2", "3"} {
		event(from, "TransferSent", strings.Replace(sent, "%", n, 1))
	}
	online(t, s)
	event(to, "TransferReceived", strings.Replace(received, "%", "1", 1))
	if _, err := s.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	event(to, "TransferReceived", strings.Replace(received, "%", "2", 1))
	offline(t, s)
	verify(t, db, 2)
	var arrived string
	err := db.QueryRow(t.Context(), `
		select string_agg(case when received_at is null then 'no' else 'yes' end, ',' order by id) from view_schema.transfers where to_iban = 'X'`).Scan(&arrived)
	if err != nil || arrived != "yes,yes,no" {
		t.Errorf("%s, %v", arrived, err)
	}
}
