// Package projections folds events into the rows of view tables.
//
// An application says three things:
//
//   - which event types it has: [JSON], [Decode], [Ignore];
//   - which view tables it has: [NewRows] declares a table by the bun model of its rows, [NewIndex] a way to find rows, and
//     [NewTotals] a table whose rows many aggregates add to;
//   - how events change rows: a [Projector] owns tables and handles typed events with [On].
//
// [NewSet] checks that they fit together. The same handlers then run in three places, and leave the same rows behind:
// in a rebuild ([Set.Rebuild]), where rows leave as COPY; in a catch-up on tables that have rows already
// ([Set.CatchUp]); and live, in the transaction in which the application appends its events ([Set.Project]). Package
// projectiontest tests them, with or without a database.
//
// # One aggregate at a time
//
// Handlers read and write rows in memory. What they see are the rows of the event's own aggregate, so that aggregates can
// be replayed in any order and on any number of workers. A row of another aggregate cannot be reached: asking for it by
// its aggregate's id, or writing it, is [ErrForeign]. Every table therefore has one column with the id of the aggregate
// that the row belongs to: the only primary key, or the field tagged view:"aggregate".
//
// Two transactions must not project events of one aggregate at the same time. An event store whose (aggregate, sequence)
// is unique sees to that, if the application appends its events before it projects them.
//
// Live and in a catch-up, the rows of an aggregate are loaded from a table when a handler first touches it: all of them,
// which is much for a table that grows with every event. For such tables, [Rows.Create] and [Index.Last] are enough, and
// load no more than the last row.
//
// # Totals
//
// What is made of many aggregates, like the balance of all accounts of a branch, is declared as [Totals]: a table whose columns
// are sums, counts, minima, maxima or last values by position. Handlers [Totals.Add] to its rows, and cannot read them: so the
// outcome is the same in whatever order aggregates come. Only exact types are allowed, since sums of floats depend on the order.
//
//	type BranchTotal struct {
//		bun.BaseModel `bun:"table:branch_totals"`
//		Branch        string `bun:"branch,pk"`
//		Balance       int64  `bun:"balance" view:"sum"`
//	}
//
//	var branchTotals = projections.NewTotals[BranchTotal]()
//
//	err := branchTotals.Add(s, BranchTotal{Branch: "Utrecht", Balance: 100})
//
// What is taken away is added with a minus. A row stays when its sums are 0 again. Counts, minima, maxima and last values cannot
// be taken back.
//
// A transaction that adds to a row holds off all others that do, until it ends. Totals are therefore written last, and in the
// order of keys, so that opposite orders cannot deadlock. Live, [Set.Project] should be the last statement of the application's
// transaction, too, and be called once in it with all its events.
//
// Where two aggregates write rows of one key all the same, with [Rows], the error is [ErrShared]; it names both.
//
// # Former events
//
// Events that were stored with other payloads or under other names are a matter of their type: [Version], [Upcast], [FormerName] and
// others are options of [JSON] and [Decode]. Handlers see the newest payload and the newest name alone.
//
// # Other orders
//
// Some rows are no aggregate's: a transfer is sent by one account and received by another. A projector with the [Order]
// ByPosition gets all events in the order of the store, one after the other, and sees all rows of its tables. They need no column
// with an aggregate's id, and [ErrForeign] does not occur. Tables are not loaded: handlers ask for rows by their key, or by the
// group of an [Index], and these are loaded. So the key has to be a column, or a struct of columns, and so does the group; both
// should have an index in SQL, which for such tables is made before their rows. [Rows.All] and its like are [ErrAllRows].
//
// To load the rows of some thousand events with few queries, handlers are called several times with an event, and all calls but
// the last are undone. They depend on the event and the rows alone, so they cannot tell.
//
// A projector with the order ByPartition gets events in the order of the store, too, and sees the rows that share the event's
// [Meta].Partition: what is said of the aggregate above holds for the partition. The field tagged view:"aggregate" has the
// partition's id. Events without a partition are not for it.
//
// The price is the parallelism: in a rebuild one worker at a time goes through the events of such projectors, and live, the
// transactions that append such events have to wait for each other before they do: see [Set.TakeTurn].
//
// # SQL tables
//
// A table can be filled by a query instead: a [SQLTable] among a projector's tables. It has no handlers, and neither a [Run]
// nor [Set.Project] writes it. Package replay has PostgreSQL compute it, in a rebuild and in a catch-up.
//
// # What a row goes through
//
// A row may be written and loaded again between any two events. So that handlers cannot tell, rows are kept as
// PostgreSQL will return them:
//
//   - times are cut to microseconds and in UTC; in a timestamp column their wall clock is kept, in a date column the day;
//   - a nil pointer, map or slice is NULL, in a jsonb column too; the zero value of a nullzero field is NULL;
//   - NULL is loaded as the zero value;
//   - columns that the database numbers (autoincrement, identity) are always zero to handlers, and never written.
//
// What the column's type does beyond that is the handler's to avoid: a numeric(10,2) rounds "1.005", jsonb turns an int
// in a map[string]any into a float64 and reorders a json.RawMessage, char(n) pads.
package projections
