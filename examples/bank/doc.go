// Package bank is the worked example of Projector: a bank's events and its read models.
//
// events.go has the events, accounts.go, transactions.go and transfers.go the projectors, totals.go rows that accounts add up,
// versions.go what each version of the view schema changes, and sql/views the tables. That is all that an application writes; cmd/bank
// makes a command line of it.
//
// The rest stands in for the application: store.go appends events and projects them in the same transaction, traffic.go
// makes customers, and verify.go replays everything by hand, to hold the view tables against. Package v1 is the bank's
// previous release, as it still runs while the next one's tables are built.
package bank
