// Package replay fills tables from events: once from the beginning, in parallel, and then again and again with what has
// been appended since.
//
// A Job says what is replayed into which tables, and where its bookkeeping is. Run works through the batches that Prepare
// wrote: any number of workers in any number of processes claim them with FOR UPDATE SKIP LOCKED, and a batch's rows, its
// ledger entries and its done mark commit in one transaction. A crash costs the batches in flight and nothing else; there
// is no lease and no heartbeat, since a dead worker's lock ends with its connection.
//
// # Passes
//
// Workers do not read the events themselves. Readers do, with connections of their own: a reader takes a run of neighboring
// batches that are not done, offers the first to a worker, which claims it, and reads all of them with one statement in the
// order of aggregates, handing over one batch after the other. While workers store rows, the server already sorts what
// comes next. Where a reader meets a batch that another process has, it ends its pass and begins another one elsewhere.
// Nothing depends on what a reader believes: only the claim makes a batch a worker's, and only the worker's commit makes it
// done. Passes says how many statements read the store, which is what decides how often a large table is read from disk.
//
// Between the processes and a server there may be a network, and every statement that is waited for takes a round trip. None of
// these is on a reader's way: while a batch is being claimed its first events are read, and where the events are in another
// database than the tables, there are two workers for each reader, one of which takes the next batch while the other one
// commits. Events come as eventstore.Reader.Scan says, and rows leave by COPY, which waits for nothing until its end.
//
// # The ledger
//
// Which events the tables hold is told by a cut and a set of positions: every event at or below the cut, and each whose
// position is in projector_replayed_ids, together with its aggregate if several can have one. Batches read all committed
// events of their aggregates in one snapshot and record those above the cut, of every type, in the transaction that stores
// the rows.
//
// CatchUp settles a new cut first, then applies what the ledger lacks in groups of whole aggregates, and at last moves the
// cut and forgets the positions up to it. Settling after the pass would lose the events that were committed in between. A server that
// takes over during the pass may lack the last commits, and then gives out their positions anew: the cut moves only where a
// mark is that was committed after it was settled. A server that crashes during it may have lost the commits of groups, which do not wait
// for the disk: the cut moves only if the ledger has as many events up to it as there were in the snapshot that was read, recorded and
// lacking.
//
// # Standbys
//
// Of a hot standby of the server with the tables, which has the events too, only what is settled is read: events at or below a cut
// that was settled on the primary. These are the same on every server that has them all, however far it is otherwise. So what is read
// does not depend on which standby it was, or on how old its snapshot is, and nothing of it has to be recorded; and an event is never
// known to the ledger before statements on the primary can see it, which would be so with a commit that waits for a synchronous standby.
// What is above the cut is left to catch-ups, and to the cutover, which reads no standby.
//
// Whether a snapshot has all that is settled is told by a mark: a row that is committed on the primary after the cut was settled.
// Commits become visible on a standby in the order of the WAL, so a snapshot with the mark has all that was committed before it. A
// position in the WAL would not do: two servers that have gone different ways, after a standby was promoted, both come to it. For the
// same reason the transaction that stores what was read looks for the mark, too: if it is there, its server and the standby have the
// same history up to the mark. A standby that was promoted is not read, since marks do not come to it, and what it has is of others.
//
// A snapshot of a standby lasts for as long as it lets queries hold up the replay of WAL. A pass that it cancels is followed by one
// of half as many batches; a catch-up goes on from the primary.
//
// # Totals
//
// Batches do not add to the rows of a projections.Totals: all that add to one would wait for the first, until its end. They
// leave partial rows in a side table without a key, in the transaction of their other rows. When all batches of the store are
// done, Job.Merge puts them together, in a batch per table: the phases are replay, merge, index, analyze, each complete before
// the next one begins. Groups of a catch-up and the cutover add to the table itself, as the last thing that they do, in the order
// of keys.
//
// # SQL tables
//
// A projections.SQLTable is computed inside of PostgreSQL. A batch is one insert from its query over the events of the batch's
// aggregates; of a set of SQL tables alone it needs no reader, and batches are as large as passes, since each is a statement
// of its own. In a catch-up, the rows of the aggregates that the ledger lacks events of are deleted and computed again from all
// their events.
//
// The rule of the ledger is: what is recorded has been seen. Computing an event's aggregate once more does no harm, so rows may
// be ahead of the ledger, and never behind it: positions are recorded first, and the rows computed in a snapshot that is as new
// or newer.
//
//   - Of a set of SQL tables alone, batches and groups are REPEATABLE READ: positions and rows are of one snapshot, so that the
//     tables hold just what the ledger says. The cut, too, is as of that snapshot, and has to be the newest: whoever moves it
//     has the migration's row FOR UPDATE first, and then even FOR KEY SHARE fails in an older snapshot, with 40001, and is
//     tried again. It may see an older state than the newest ("building" while an abort begins), but an abort waits for the
//     row, and so for the transaction, before it removes anything.
//   - Of a set that has both kinds of tables, they are READ COMMITTED. What handlers get comes from a reader, whose snapshot is
//     newer than the beginning of the worker's transaction; REPEATABLE READ queries would not see what the reader has read, and
//     its events would be recorded and lost. READ COMMITTED queries run last, and may be ahead.
//   - The cutover's transaction is READ COMMITTED, since it has to see what was committed while it waited for its locks. With
//     writers held off, all its statements see the same events.
//
// Two transactions never compute one aggregate at the same time. Each records all events of the aggregate that the ledger lacks.
// Of two snapshots the newer has all events of the older, so the two sets share one, unless the ledger has got those of the
// older set meanwhile; in either case one transaction fails at the primary key of projector_replayed_ids, or at the
// migration's row if the cut has passed the events, before it has touched a row.
//
// # Parked aggregates
//
// With Park, an aggregate whose event cannot be projected is left out of the tables, whole, and listed in
// projector_parked_events. To the ledger its events count as replayed: they are recorded like all others. A batch is rolled back
// and replayed again without the aggregates that failed in it, which also undoes what they have put into rows that are not
// theirs alone; in a catch-up, the aggregate's rows are deleted in the transaction that parks it.
//
// Each batch and each group takes the rows of the parked aggregates that it leaves out FOR SHARE, before it records anything.
// RetryParked takes an aggregate's row FOR UPDATE and only then reads its events, all of them: a pass either has ended before, and
// what it has recorded is among these events, or waits, and then finds the aggregate parked no more. Parking records what the
// ledger lacks of the aggregate, as applying it would: another pass that is about to apply some of it fails, and finds the
// aggregate parked when it tries again.
//
// # The lane
//
// Projectors with an order other than projections.ByAggregate are replayed in the lane: one worker at a time applies their events
// in the order of positions, beside the workers of the batches, and never goes past a settled cut. Below it no event can come any
// more, so one position is the lane's whole ledger: the tables hold the events at or below it, and no others. It is a row of
// projector_lanes. A slice of the lane is a transaction that takes the migration's row FOR KEY SHARE, then locks the lane's row,
// reads the position from it, applies the events that come next, and moves the position. Any number of processes may try; whoever
// waits for the row goes on from where it finds the position. A crash costs one slice.
//
// Until the migration is built, the lane goes up to its first cut, and the migration is not built before. A catch-up settles the
// new cut, brings the lane there and only then moves the cut, so that the lane is never behind it; if the new cut is not settled,
// the lane stays where it is. The cutover applies all that is left, with writers held off: no event that is not visible then
// can come from a transaction that is open.
//
// An event that commits late, below a position that the lane has passed, would be lost, and could not be made up for, since it
// should have been applied before others. Of the ledger of the batches, a cut of 0 only makes a long one. So a store whose
// positions cannot be settled, or in which several events share one, is refused before such a migration begins, and so is a first
// cut that writers keep from being settled.
//
// A slice is read with one statement, from the position on and with a limit, which an index on the positions answers. Without one
// it would be a sort of the whole store for each slice: then the lane is one slice.
//
// Live, the order of the store has to be the order in which transactions project: see projections.Set.TakeTurn.
//
// # Locks
//
// Every transaction that works for a migration first takes its row FOR KEY SHARE and reads its state and its cut from it.
// Whoever changes these takes FOR UPDATE, and so waits for work under way and is waited for. There is no other lock in the
// work path but the claimed batch, the lane, and the rows of parked aggregates.
package replay
