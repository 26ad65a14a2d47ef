// Package projector names the versions of a view schema: which projectors are replayed and which tables are altered or
// dropped on the way from one version to the next. It depends on the standard library only, so that the place in an
// application that lists its versions depends on nothing else.
//
//	var Versions = projector.Versions{
//		1: {projector.Replay(Accounts, Transactions)},
//		2: {projector.Replay(Accounts)},
//		3: {projector.Alter(projector.Named("transactions"))},
//	}
//
// The other packages do the work, each on top of the next: cli is the command line, viewschema migrates from version to
// version, replay fills tables from events, eventstore reads the events, projections folds events into rows. Beside them,
// eventtable tells whether an event table is fit to be read, and makes it so, and estimate how long a rebuild takes.
package projector
