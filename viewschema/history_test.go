package viewschema_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// formerDeposit is MoneyDeposited as it was in version 1.
type formerDeposit struct {
	Euros, Cents int64
	From, Text   string
}

// withFormerDeposits is the bank's second release on a store with schema versions. Deposits of version 1 were called
// MoneyPaidIn.
func withFormerDeposits(version string, up func(formerDeposit) (bank.Deposited, error)) viewschema.Definition {
	d := version2()
	d.Source = eventstore.Mapping{SchemaVersion: "schema_version"}
	d.Events = slices.Clone(bank.Events)
	d.Events[2] = projections.JSON[bank.Deposited]("MoneyDeposited", projections.Version("2"),
		projections.Upcast(version, up), projections.FormerName("MoneyPaidIn"))
	return d
}

// A store in which half of the deposits have another name and another shape makes the same rows.
func TestRebuildUpcasts(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	if _, err := db.Exec(t.Context(), `
		alter table events add column schema_version int;
		update events set schema_version = 2 where event_type = 'MoneyDeposited';
		update events set schema_version = 1, event_type = 'MoneyPaidIn', data = jsonb_build_object('Euros', (data ->> 'amount')::bigint / 100,
			'Cents', (data ->> 'amount')::bigint % 100, 'From', data -> 'counterparty', 'Text', data -> 'description')
		where event_type = 'MoneyDeposited' and position % 2 = 0`); err != nil {
		t.Fatal(err)
	}
	up := func(f formerDeposit) (bank.Deposited, error) {
		return bank.Deposited{Amount: 100*f.Euros + f.Cents, Counterparty: f.From, Description: f.Text}, nil
	}
	s := open(t, db, withFormerDeposits("1", up))
	plan, err := s.Plan(t.Context())
	if err != nil || len(plan.Unknown) > 0 {
		t.Errorf("unknown types: %v, %v", plan.Unknown, err)
	}
	online(t, s)
	// Other upcasts are other code.
	_, err = open(t, db, withFormerDeposits("0", up)).CatchUp(t.Context())
	if !errors.Is(err, viewschema.ErrChanged) || !strings.Contains(err.Error(), `version \"1\" from viewschema_test.formerDeposit to bank.Deposited`) {
		t.Errorf("with another upcast: %v", err)
	}
	offline(t, s)
	if _, err := db.Exec(t.Context(), `
		update events set event_type = 'MoneyDeposited', data = jsonb_build_object('amount', 100 * (data ->> 'Euros')::bigint + (data ->> 'Cents')::bigint,
			'counterparty', data -> 'From', 'description', data -> 'Text')
		where event_type = 'MoneyPaidIn'`); err != nil {
		t.Fatal(err)
	}
	verify(t, db, 2)
}

// What strict types refuse is refused before anything is touched, and named. Without them it is told.
func TestStrictTypes(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	if _, err := db.Exec(t.Context(), "update events set event_type = 'AccountCreated' where event_type = 'AccountOpened' and position % 2 = 0"); err != nil {
		t.Fatal(err)
	}
	with := func(strict bool, types ...projections.EventType) *viewschema.Schema {
		d := version2()
		d.Events = slices.Concat(types, bank.Events[1:])
		s, err := viewschema.Open(db, d, viewschema.Options{StrictTypes: strict})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	opened := projections.JSON[bank.Opened]("AccountOpened")
	former := projections.JSON[bank.Opened]("AccountOpened", projections.FormerName("AccountCreated", "AccountBegun"))
	for _, test := range []struct {
		types []projections.EventType
		want  []string
	}{
		{[]projections.EventType{opened}, []string{"does not know the event type AccountCreated, which the store has "}},
		{
			[]projections.EventType{opened, projections.Ignore("AccountCreatd")},
			[]string{"AccountCreated, which the store has ", "(did you mean AccountCreatd?)", "no event of the type AccountCreatd (did you mean AccountCreated?)"},
		},
		{[]projections.EventType{former, projections.Ignore("CardIssued")}, []string{"no event of the type CardIssued; leave it out"}},
	} {
		_, err := with(true, test.types...).MigrateOnline(t.Context())
		plan, planErr := with(true, test.types...).Plan(t.Context())
		if planErr != nil || len(plan.Hazards) == 0 || plan.Hazards[0].Blocks != viewschema.StageOnline {
			t.Fatalf("%v: %+v, %v", test.want, plan, planErr)
		}
		for _, want := range test.want {
			if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
		if plan, err = with(false, test.types...).Plan(t.Context()); err != nil || len(plan.Hazards) > 0 {
			t.Errorf("without strict types: %+v, %v", plan, err)
		}
	}
	var touched bool
	if err := db.QueryRow(t.Context(), "select to_regnamespace('view_schema') is not null").Scan(&touched); err != nil || touched {
		t.Errorf("touched: %v, %v", touched, err)
	}
	online(t, with(true, former))
}
