// Package projectiontest tests projectors: in memory, where a test takes microseconds and needs nothing, or in a database of
// its own on a real PostgreSQL. One word tells which.
//
//	func TestWithdrawal(t *testing.T) {
//		anna := projectiontest.UUID("anna")
//
//		test := projectiontest.Memory(t, bank.Definition) // or projectiontest.Database(t, bank.Definition)
//		test.Given(anna, bank.Opened{Owner: "Anna"}, bank.Deposited{Amount: 100})
//		test.When(anna, bank.Withdrawn{Amount: 30})
//		test.Then(bank.Account{ID: anna, Owner: "Anna", Balance: 70, Version: 3, OpenedAt: projectiontest.At(1)})
//	}
//
// Given adds events to the history of an aggregate. They go through the event store and the decoders, and the view tables are
// rebuilt from them, as in a migration. When is the application at work: it appends events and projects them live, in one
// transaction. Then names rows, and compares all rows of their models with them: live, and once more after a rebuild from all
// events, so that what only works in one of the two ways does not pass.
//
// Sequence numbers, positions and times are filled in, always with the same values: positions count from 1, and At tells the
// time of each. What a test wants to say itself, it says with a projections.New. ThenNone is for models without rows, ThenError
// for steps that fail. A failure lists the rows that differ by key, with the fields that do, and the events that led there:
//
//	accounts_test.go:17: Then: the rows projected live are not as wanted
//	    accounts:
//	        anna:
//	            Balance: got 60, want 70
//	      given    1  anna #1  bank.Opened{Owner: "Anna"}
//	      given    2  anna #2  bank.Deposited{Amount: 100}
//	      when     3  anna #3  bank.Withdrawn{Amount: 40}
//
// # Memory or Database
//
// Start with Memory. It runs the same handlers on the same store of rows as a catch-up and the live tables do; it also finds
// handlers that reach for another aggregate's rows, and keys that two aggregates create. It does not know the tables' SQL: no
// constraint, no unique index besides the key, no type that rounds or refuses a value, no SQL table. One test with Database for
// each projector finds those.
//
// Database uses the server that DATABASE_URL names, whose user must be allowed to create databases, or starts a private one
// when it is first needed, which ends with the test binary and leaves nothing behind. Each test has its own database, copied
// from a template that has the event table and the view tables; tests can be parallel. On a server of yours, databases of tests
// are dropped with the test, and the template stays until the definition changes: its name has a hash of SQL files, projectors,
// revisions, versions and mapping. If a handler changes and nothing else, the template is still good.
//
// # Event stores
//
// Events is a small event store, for an application's own tests: append with optimistic concurrency, read by aggregate or from
// a position. NewMemoryEvents and NewTableEvents are interchangeable.
//
// The package is for tests only: it imports testing.
package projectiontest
