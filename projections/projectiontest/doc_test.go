package projectiontest_test

import (
	_ "embed" // the two files
	"strings"
	"testing"

	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections/projectiontest"
)

func TestWithdrawal(t *testing.T) {
	anna := projectiontest.UUID("anna")

	test := projectiontest.Memory(t, bank.Definition) // or projectiontest.Database(t, bank.Definition)
	test.Given(anna, bank.Opened{Owner: "Anna"}, bank.Deposited{Amount: 100})
	test.When(anna, bank.Withdrawn{Amount: 30})
	test.Then(bank.Account{ID: anna, Owner: "Anna", Balance: 70, Version: 3, OpenedAt: projectiontest.At(1)})
}

var (
	//go:embed doc.go
	doc string
	//go:embed doc_test.go
	here string
)

// What the package's documentation begins with is the test above.
func TestDocumentationShowsATest(t *testing.T) {
	t.Parallel()
	_, code, _ := strings.Cut(doc, "//\tfunc TestWithdrawal")
	code, _, _ = strings.Cut(code, "//\t}\n")
	code = strings.ReplaceAll(strings.ReplaceAll(code, "//\t", ""), "//\n", "\n")
	if code == "" || !strings.Contains(here, "func TestWithdrawal"+code+"}\n") {
		t.Errorf("doc.go shows\n%s", code)
	}
}
