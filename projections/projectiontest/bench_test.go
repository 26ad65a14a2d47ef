package projectiontest_test

import (
	"testing"

	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections/projectiontest"
)

// A test in memory, from its beginning to its end.
func BenchmarkMemory(b *testing.B) { benchmark(b, projectiontest.Memory) }

// A test in a database of its own, which is made and dropped.
func BenchmarkDatabase(b *testing.B) { benchmark(b, projectiontest.Database) }

func benchmark(b *testing.B, begin begin) {
	test := func() {
		failure := record(b.Context(), func(t *recorder) {
			test := begin(t, bank.Definition)
			test.Given(anna, bank.Opened{Owner: "Anna"}, bank.Deposited{Amount: 100})
			test.When(anna, bank.Withdrawn{Amount: 30})
			test.Then(bank.Account{ID: anna, Owner: "Anna", Balance: 70, Version: 3, OpenedAt: projectiontest.At(1)})
		})
		if failure != "" {
			b.Fatal(failure)
		}
	}
	test() // starts the server and makes the template
	for b.Loop() {
		test()
	}
}
