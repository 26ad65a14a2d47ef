// Package pgtest gives every test a database of its own on a real PostgreSQL. It is for tests only.
//
// A test package hands its TestMain to [Main]; the first test that asks for a database starts the package's cluster, or
// takes the server that DATABASE_URL names. A test without a server fails.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestAccounts(t *testing.T) {
//		t.Parallel()
//		pool := pgtest.Database(t, bank.CreateTables)
//		…
//	}
package pgtest
