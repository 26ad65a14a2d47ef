// Package eventstore reads event stores.
//
// A Mapping names the table and its columns, or a preset that knows them; Open checks it against the catalog and makes a
// Reader of it. The Reader streams events in the order of their aggregates, cuts the store into ranges of about equal work,
// tells how the table lies on disk, and settles cuts.
//
// # Settled cuts
//
// Positions commit out of order: a transaction can draw position 10, another draw 11 and commit first. A reader that
// remembers "up to 11" loses 10. A settled cut is a position for which this cannot happen any more: every event at or
// below it is visible to everybody or will never exist. Settle finds one by waiting for the transactions that may still
// bring such events: those that hold a write lock on the event table, a partition of it, or the sequence that numbers
// the events. nextval locks its sequence until the transaction ends, so whoever holds a number is on that list, even
// before the insert.
//
// Where numbers can be drawn outside of the transaction that inserts the event, no list of locks can tell, and the cut is
// 0, with the reason: slower, never wrong. Where writers wait for each other, the highest position is a cut. Where positions
// are transaction ids, it is below the oldest transaction that is open; several aggregates can have events of one position
// then, and an event is told by the two together.
//
// Nothing here writes to the event store. The only strong lock is HoldWriters', for the cutover.
package eventstore
