package projectiontest_test

import (
	"testing"

	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections/projectiontest"
)

// Totals are added to live, rebuilt, and compared like other rows.
func TestTotals(t *testing.T) {
	t.Parallel()
	both(t, "", func(t testing.TB, begin begin) {
		test := begin(t, bank.Definition)
		test.Given(anna, bank.Opened{Owner: "Anna", IBAN: "NL01", Branch: "Gent", Currency: "EUR"}, bank.Deposited{Amount: 100})
		test.When(ben, bank.Opened{Owner: "Ben", IBAN: "NL02", Branch: "Gent", Currency: "EUR"}, bank.Deposited{Amount: 50})
		test.When(anna, bank.Withdrawn{Amount: 30})
		test.Then(bank.BranchTotal{Branch: "Gent", Currency: "EUR", Accounts: 2, Balance: 120, Turnover: 180})
		projectiontest.Rows[bank.BranchTotal](test)
	})
}
