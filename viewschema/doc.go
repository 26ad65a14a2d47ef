// Package viewschema migrates view tables from version to version.
//
// A Definition is everything that an application says about its view schema: its projectors, what each version changes,
// and one SQL file per table. Open checks it and connects it to a database. Then, in the order of a version's life:
//
//	MigrateOnline   makes accounts_2 beside accounts and fills it from all events, in parallel, while the application runs
//	CatchUp         applies the events that came since; any number of times
//	Verify          compares accounts_2 with accounts, at the same events
//	MigrateOffline  the cutover: in one transaction, with writers held off, applies the last events, renames accounts to
//	                accounts_1 and accounts_2 to accounts, and records the version
//	Abort           removes what the migration has made; from any state before the cutover
//
// Every step can be killed and run again. What a step has committed is in the bookkeeping tables, projector_*, in the view
// schema; nothing is kept in the process. Several processes may run MigrateOnline for the same version at once and share
// the work.
//
// # SQL files
//
//	<table>.sql            creates the table as it is in the target version; every name that must be unique in the schema
//	                       has %SUFFIX% in it: create table accounts%SUFFIX% (…)
//	<table>.indexes.sql    optional; run after the rows are loaded, which is faster: primary key, indexes, constraints. For an
//	                       accumulating table it is run at once: its rows are added to by the key
//	<table>_<version>.sql  the in-place change of projector.Alter; run in the cutover, on the live table
//
// A table that a plan replays is made from <table>.sql, which knows the newest shape, so the plan's alters of the same
// table are left out. Files go to PostgreSQL whole and must not end the transaction.
//
// # Accumulating tables
//
// For each projections.Totals there is a side table beside the new one, projector_partial_branch_totals_2, as long as batches
// are replayed: they leave partial rows there. When all are done, a batch of its own puts these together and drops the side
// table, in one transaction.
//
// # Guard
//
// Each version has a relation at_<version> with one row, made in its cutover. An application that begins its transactions
// with GuardQuery(version) gets an error instead of writing with old code into new tables.
package viewschema
