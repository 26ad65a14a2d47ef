package projectiontest_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/projections/projectiontest"
	"github.com/viewschema/projector/viewschema"
)

var (
	anna = projectiontest.UUID("anna")
	ben  = projectiontest.UUID("ben")
)

// begin is Memory or Database.
type begin = func(t testing.TB, d viewschema.Definition, opts ...projectiontest.Option) *projectiontest.Test

// both runs a test in memory and in a database. failure is what it says, empty if it passes; a failure may stand for several
// lines by … alone.
func both(t *testing.T, failure string, test func(t testing.TB, begin begin)) {
	t.Helper()
	for name, begin := range map[string]begin{"memory": projectiontest.Memory, "database": projectiontest.Database} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := record(t.Context(), func(r *recorder) { test(r, begin) })
			if !matches(got, strings.TrimSpace(failure)) {
				t.Errorf("got\n%s\nwant\n%s", got, failure)
			}
		})
	}
}

func matches(got, want string) bool {
	parts := strings.Split(want, "…")
	if !strings.HasPrefix(got, parts[0]) || !strings.HasSuffix(got, parts[len(parts)-1]) {
		return false
	}
	for _, part := range parts {
		_, rest, ok := strings.Cut(got, part)
		if !ok {
			return false
		}
		got = rest
	}
	return len(parts) > 1 || got == ""
}

func TestLiveAndRebuilt(t *testing.T) {
	t.Parallel()
	both(t, "", func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition)
		test.Given(anna, bank.Opened{Owner: "Anna", IBAN: "NL01"}, bank.Deposited{Amount: 100, Description: "salary"})
		test.Given(uuid.UUID(ben), bank.Opened{Owner: "Ben", IBAN: "NL02"})
		test.When(anna, bank.TransferSent{Amount: 30, To: "NL02"})
		test.When(ben, &bank.TransferReceived{Amount: 30, From: "NL01"})
		test.Then(
			bank.Account{ID: anna, Owner: "Anna", IBAN: "NL01", Balance: 70, Version: 3, OpenedAt: projectiontest.At(1)},
			bank.Account{ID: ben, Owner: "Ben", IBAN: "NL02", Balance: 30, Version: 2, OpenedAt: projectiontest.At(3).In(time.FixedZone("", 3600))},
			&bank.Transaction{EventID: 2, AccountID: anna, Sequence: 2, Kind: "deposit", Amount: 100, Balance: 100, Description: "salary", At: projectiontest.At(2)},
			bank.Transaction{EventID: 4, AccountID: anna, Sequence: 3, Kind: "transfer", Amount: -30, Balance: 70, Description: "to NL02", At: projectiontest.At(4)},
			bank.Transaction{EventID: 5, AccountID: ben, Sequence: 2, Kind: "transfer", Amount: 30, Balance: 30, Description: "from NL01", At: projectiontest.At(5)},
		)
		test.When(anna, bank.Closed{})
		test.When(ben, bank.Closed{})
		test.ThenNone(bank.Account{})
		if rows := projectiontest.Rows[bank.Transaction](test); len(rows) != 3 || rows[2].EventID != 5 {
			t.Errorf("got transactions %v", rows)
		}
	})
}

func TestRowsThatDiffer(t *testing.T) {
	t.Parallel()
	both(t, `
Then: the rows projected live are not as wanted
accounts:
    anna:
        Owner: got "Anna", want "Anne"
        Balance: got 70, want 60
    ben: is there, and was not expected
        bank.Account{ID: ben, Owner: "Ben", IBAN: "NL02", Version: 1, OpenedAt: 2024-01-01T00:00:03Z}
    0ca10000-0000-4000-8000-000000000000: is missing
        bank.Account{ID: 0ca10000-0000-4000-8000-000000000000, Owner: "Carl"}
  given    1  anna #1  bank.Opened{Owner: "Anna"}
  given    2  anna #2  bank.Deposited{Amount: 100}
  given    3  ben #1  bank.Opened{Owner: "Ben", IBAN: "NL02"}
  when     4  anna #3  bank.Withdrawn{Amount: 30}`, func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition)
		test.Given(anna, bank.Opened{Owner: "Anna"}, bank.Deposited{Amount: 100})
		test.Given(ben, bank.Opened{Owner: "Ben", IBAN: "NL02"})
		test.When(anna, bank.Withdrawn{Amount: 30})
		test.Then(
			bank.Account{ID: anna, Owner: "Anne", Balance: 60, Version: 3, OpenedAt: projectiontest.At(1)},
			bank.Account{ID: uuid.MustParse("0ca10000-0000-4000-8000-000000000000"), Owner: "Carl"},
		)
	})
}

func TestNoneWhereThereIsSome(t *testing.T) {
	t.Parallel()
	both(t, `
ThenNone: the rows rebuilt from all events are not as wanted
accounts:
    anna: is there, and was not expected
        bank.Account{ID: anna, Owner: "Anna", Version: 1, OpenedAt: 2024-01-01T00:00:01Z}
  given    1  anna #1  bank.Opened{Owner: "Anna"}`, func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition)
		test.Given(anna, bank.Opened{Owner: "Anna"})
		test.ThenNone(bank.Transaction{}, bank.Account{})
	})
}

// A step that fails leaves the rows and the events as they were, and the test goes on.
func TestHandlersErrors(t *testing.T) {
	t.Parallel()
	both(t, "", func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition)
		test.Given(anna, bank.Opened{Owner: "Anna"})
		test.When(anna, bank.Deposited{Amount: 100}, bank.Opened{Owner: "Anna again"})
		test.ThenError(projections.ErrExists, "projector accounts: event 3", "accounts 616e6e61-0000-0000-0000-000000000000")
		test.Then(bank.Account{ID: anna, Owner: "Anna", Version: 1, OpenedAt: projectiontest.At(1)})
		test.When(anna, bank.Deposited{Amount: 5})
		test.Then(bank.Transaction{EventID: 4, AccountID: anna, Sequence: 2, Kind: "deposit", Amount: 5, Balance: 5, At: projectiontest.At(4)})
		test.Given(ben, bank.Renamed{Owner: "Ben"})
		test.ThenError(projections.ErrNotFound)
	})
}

func TestErrorsThatNobodyExpects(t *testing.T) {
	t.Parallel()
	both(t, `
When of test_test.go:…failed: projector accounts: event 1 (AccountRenamed, aggregate 616e6e61-0000-0000-0000-000000000000, sequence 1): accounts 616e6e61-0000-0000-0000-000000000000: no such row
  when     1  anna #1  bank.Renamed{Owner: "Anna"}  (failed)`, func(t testing.TB, begin begin) {
		begin(t, bank.Definition).When(anna, bank.Renamed{Owner: "Anna"})
	})
	both(t, `
Then: the events that were given cannot be projected: …no such row
  given    1  anna #1  bank.Renamed{Owner: "Anna"}`, func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition)
		test.Given(anna, bank.Renamed{Owner: "Anna"})
		test.Then(bank.Account{})
	})
	both(t, `
When of test_test.go:…no such row
  when     1  anna #1  bank.Renamed{Owner: "Anna"}  (failed)`, func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition)
		test.When(anna, bank.Renamed{Owner: "Anna"})
		test.Then(bank.Account{})
	})
}

func TestErrorsThatAreOthers(t *testing.T) {
	t.Parallel()
	both(t, `
ThenError: got projector accounts: …no such row
which does not wrap a row with this key exists
…ThenError: got …no such row
which does not say "overdrawn"
…ThenError: no error
  when     1  …`, func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition)
		test.When(anna, bank.Renamed{Owner: "Anna"})
		test.ThenError(projections.ErrExists)
		test.When(anna, bank.Renamed{Owner: "Anna"})
		test.ThenError(nil, "no such row", "overdrawn")
		test.ThenError(nil)
	})
}

// What a test says of an event itself stays: its time, its place, and events as an older release has stored them.
func TestEventsWithMeta(t *testing.T) {
	t.Parallel()
	at := time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)
	both(t, "", func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition, projectiontest.Ignore(bank.Account{}, "OpenedAt", "IBAN"))
		test.Given(anna,
			projections.Raw{Type: []byte("AccountOpened"), Data: []byte(`{"owner_name": "Anna", "iban": "NL01", "of_old": true}`)},
			projections.New{Meta: projections.Meta{Sequence: 7, Time: at}, Data: bank.Deposited{Amount: 5}})
		test.When(anna, bank.Deposited{Amount: 6})
		test.Then(
			bank.Account{ID: anna, Owner: "Anna", Balance: 11, Version: 8},
			bank.Transaction{EventID: 2, AccountID: anna, Sequence: 7, Kind: "deposit", Amount: 5, Balance: 5, At: at},
			bank.Transaction{EventID: 3, AccountID: anna, Sequence: 8, Kind: "deposit", Amount: 6, Balance: 11, At: projectiontest.At(3)},
		)
		test.When(anna, projections.New{Meta: projections.Meta{Sequence: 7}, Data: bank.Deposited{Amount: 5}})
		test.ThenError(projectiontest.ErrConflict, "sequence 7")
		if _, err := test.Events().Append(t.Context(), projections.New{
			Meta: projections.Meta{AggregateID: projections.UUID(anna), Sequence: 9, Type: "AccountRenamed"}, Data: bank.Renamed{Owner: "Anne"},
		}); err != nil {
			t.Fatal(err)
		}
		test.Given(anna, bank.Deposited{Amount: 7})
		test.Then(bank.Account{ID: anna, Owner: "Anne", Balance: 18, Version: 10})
		events, err := test.Events().Read(t.Context(), 5)
		if err != nil || len(events) != 1 || string(events[0].Type) != "MoneyDeposited" {
			t.Errorf("got %v, %v", events, err)
		}
	})
}

func TestMistakesInATest(t *testing.T) {
	t.Parallel()
	for failure, test := range map[string]func(test *projectiontest.Test){
		"given: an aggregate's id is a UUID, a string or a projections.ID, not int 5":             func(test *projectiontest.Test) { test.Given(5, bank.Closed{}) },
		"when: aggregate anna without an event":                                                   func(test *projectiontest.Test) { test.When(anna) },
		"given, aggregate anna: no event type has the payload bank.Account":                       func(test *projectiontest.Test) { test.Given(anna, bank.Account{}) },
		"when, aggregate anna: a projections.Raw is an event that is stored already: …":           func(test *projectiontest.Test) { test.When(anna, projections.Raw{}) },
		"Then: no rows are named; for none, use ThenNone with the model":                          func(test *projectiontest.Test) { test.Then() },
		"ThenNone: no models are named":                                                           func(test *projectiontest.Test) { test.ThenNone() },
		"Then: no table has rows of bank.Opened; there are bank.Account of table accounts, …":     func(test *projectiontest.Test) { test.Then(bank.Opened{}) },
		"Then: no table has rows of <nil>; there are …":                                           func(test *projectiontest.Test) { test.Then(nil) },
		"Then: two of the rows of bank.Account have the key 616e6e61-0000-0000-0000-00000000000…": func(test *projectiontest.Test) { test.Then(bank.Account{ID: anna}, bank.Account{ID: anna}) },
		"Given: append AccountClosed: the event has metadata, and the mapping of the event table names no column for it": func(test *projectiontest.Test) {
			test.Given(anna, projections.New{Meta: projections.Meta{Metadata: []byte("{}")}, Data: bank.Closed{}})
		},
	} {
		both(t, failure, func(t testing.TB, begin begin) { test(begin(t, bank.Definition)) })
	}
	got := record(t.Context(), func(t *recorder) {
		projectiontest.Memory(t, bank.Definition, projectiontest.Ignore(bank.Account{}, "Opened"))
	})
	if got != "projectiontest.Ignore: bank.Account has no field Opened" {
		t.Error(got)
	}
	if got := record(t.Context(), func(t *recorder) { projectiontest.Memory(t, bank.Definition).Pool() }); !strings.Contains(got, "has no database") {
		t.Error(got)
	}
}

// A handler that works live only, because it keeps something beside its rows, is found by the rebuild after Then.
func TestLiveRowsThatCannotBeRebuilt(t *testing.T) {
	t.Parallel()
	both(t, `
Then: the rows projected live are as wanted, but those rebuilt from all events are not
accounts:
    anna:
        Balance: got 5, want 3
  when     1  …`, func(t testing.TB, begin begin) {
		n := int64(0)
		test := begin(t, countingWith(func(bank.Opened) int64 { n += 2; return n + 1 }))
		test.When(anna, bank.Opened{Owner: "Anna"})
		test.Then(bank.Account{ID: anna, Balance: 3})
	})
	both(t, `
Then: the rows are as wanted, but they cannot be rebuilt from all events: …twice…`, func(t testing.TB, begin begin) {
		n := int64(0)
		test := begin(t, countingWith(func(bank.Opened) int64 {
			if n++; n > 1 {
				panic(errors.New("twice"))
			}
			return 0
		}))
		test.When(anna, bank.Opened{Owner: "Anna"})
		test.Then(bank.Account{ID: anna})
	})
}

var rows = projections.NewRows(func(a *bank.Account) uuid.UUID { return a.ID })

// countingWith is a definition with a handler that is no function of its event.
func countingWith(balance func(bank.Opened) int64) viewschema.Definition {
	d := bank.Definition
	d.Projectors = []*projections.Projector{{
		Name: "accounts", Tables: []projections.Table{rows},
		Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[bank.Opened]) error {
			return rows.Create(s, bank.Account{ID: e.AggregateID.UUID(), Balance: balance(e.Data)})
		})},
	}}
	d.Versions = projector.Versions{1: {projector.Replay(d.Projectors[0])}}
	return d
}
