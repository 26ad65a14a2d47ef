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
// # The ledger
//
// Which events the tables hold is told by a cut and a set of positions: every event at or below the cut, and each whose
// position is in projector_replayed_ids, together with its aggregate if several can have one. Batches read all committed
// events of their aggregates in one snapshot and record those above the cut, of every type, in the transaction that stores
// the rows.
//
// CatchUp settles a new cut first, then applies what the ledger lacks in groups of whole aggregates, and at last moves the
// cut and forgets the positions up to it. Settling after the pass would lose the events that were committed in between.
//
// # Locks
//
// Every transaction that works for a migration first takes its row FOR KEY SHARE and reads its state and its cut from it.
// Whoever changes these takes FOR UPDATE, and so waits for work under way and is waited for. There is no other lock in the
// work path but the claimed batch.
package replay
