package bank_test

import (
	_ "embed" // this file
	"os"
	"strings"
	"testing"

	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/projections/projectiontest"
)

var (
	anna = projectiontest.UUID("anna")
	ben  = projectiontest.UUID("ben")
)

func TestAccountIsOpened(t *testing.T) {
	t.Parallel()
	test := projectiontest.Memory(t, bank.Definition)
	test.When(anna, bank.Opened{Owner: "Anna", IBAN: "NL01", Currency: "EUR", Branch: "Gent"})
	test.Then(bank.Account{
		ID: anna, Owner: "Anna", IBAN: "NL01", Currency: "EUR", Branch: "Gent", Version: 1, OpenedAt: projectiontest.At(1),
	})
	test.ThenNone(bank.Transaction{})
}

func TestTransactionHasTheBalanceAfterIt(t *testing.T) {
	t.Parallel()
	test := projectiontest.Memory(t, bank.Definition, projectiontest.Ignore(bank.Transaction{}, "At"))
	test.Given(anna, bank.Opened{}, bank.Deposited{Amount: 100, Description: "salary"})
	test.When(anna, bank.Withdrawn{Amount: 30, Description: "cash"})
	test.Then(
		bank.Transaction{EventID: 2, AccountID: anna, Sequence: 2, Kind: "deposit", Amount: 100, Balance: 100, Description: "salary"},
		bank.Transaction{EventID: 3, AccountID: anna, Sequence: 3, Kind: "withdrawal", Amount: -30, Balance: 70, Description: "cash"},
	)
}

// Transactions outlive their account.
func TestAccountIsClosed(t *testing.T) {
	t.Parallel()
	test := projectiontest.Memory(t, bank.Definition)
	test.Given(anna, bank.Opened{}, bank.Deposited{Amount: 100})
	test.When(anna, bank.Closed{})
	test.ThenNone(bank.Account{})
	if n := len(projectiontest.Rows[bank.Transaction](test)); n != 1 {
		t.Errorf("%d transactions, want the deposit", n)
	}
	test.When(anna, bank.Renamed{Owner: "Anne"})
	test.ThenError(projections.ErrNotFound)
}

// What the tables' SQL does takes PostgreSQL to test: an IBAN is one account's.
func TestIBANIsTaken(t *testing.T) {
	t.Parallel()
	test := projectiontest.Database(t, bank.Definition, projectiontest.EventTable(bank.EventTable))
	test.Given(anna, bank.Opened{Owner: "Anna", IBAN: "NL01"})
	test.When(ben, bank.Opened{Owner: "Ben", IBAN: "NL01"})
	test.ThenError(nil, "accounts_iban", "(iban)=(NL01) already exists")
	test.Given(anna, bank.Closed{})
	test.When(ben, bank.Opened{Owner: "Ben", IBAN: "NL01"})
	test.Then(bank.Account{ID: ben, Owner: "Ben", IBAN: "NL01", Version: 1, OpenedAt: projectiontest.At(4)})
}

//go:embed accounts_test.go
var here string

// The tests that the documentation shows are those of this file.
func TestDocumentationShowsThisFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "```go\n")
	for _, part := range parts[1:] {
		code, _, _ := strings.Cut(part, "```")
		if !strings.Contains(here, code) {
			t.Errorf("docs/testing.md shows what is not in this file:\n%s", code)
		}
	}
	if len(parts) < 3 {
		t.Error("docs/testing.md shows no code")
	}
}
