// Package eventtable tells whether an event table is fit to be read by the events of an aggregate and in the order of
// positions, and makes it fit while the application writes.
//
// Check returns findings, each with what it costs to leave it so and what to type. Plan returns a Preparation: steps, each with
// the SQL that it will run, the lock that it takes, and whether it is done already. Run takes those that are not.
//
// # Steps
//
// There is no bookkeeping: before each step the catalog and the rows tell which is the first that is not done. So a run after
// a crash goes on where the other one stopped, whatever it was doing, and a second run does nothing. A session-level advisory
// lock keeps two runs on one table from each other.
//
// Statements that block writers are in transactions of their own, which begin with the lock that they need, wait for it at most
// Options.LockTimeout, and give way if they do not get it: whoever comes after us waits behind us that long and no longer.
// Everything else (index builds, the check of not null, the filling) goes on beside readers and writers.
//
// # Axon 2
//
// A table of Axon 2 has no position. The upgrade gives its rows numbers in the order of time, except that no event comes
// before an earlier one of its aggregate, where clocks disagreed. It does so in batches, through a temporary index on the rows
// that have none yet; the last ones get theirs in the transaction that makes a sequence the column's default, with writers
// held off. The application goes on inserting rows as it did, without naming the column.
package eventtable
