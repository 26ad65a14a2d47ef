package projections

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// turnLock is the first key of an advisory lock, whose second is the hash of the set's schema.
const turnLock = 0x7475726e // "turn"

// TakeTurn makes the transaction wait for its turn, until it ends, if a projector with the order ByPosition or ByPartition
// handles one of the events. Such projectors get events in the order of the store, so the transactions that append the events
// have to project them in that order. The application calls TakeTurn before it appends them, and before viewschema.Guard, for which a
// cutover waits, so that the cutover does not wait for the turns, too: whoever has the turn draws
// positions above those of all who had it before, and sees what they have projected. Only Data and Type of the events matter
// here. Project then checks that the turn was taken.
//
// The price is that transactions with such events run one after the other, from here to their commit. Others are not held up.
// The turn is an advisory lock; how long a transaction waits for it is up to its lock_timeout. It is one for all sets with the
// same schema (see In), in all processes. The transaction has to be READ COMMITTED: an older snapshot would not show what the
// transactions before it have projected.
func (s *Set) TakeTurn(ctx context.Context, tx DB, events ...New) error {
	ordered := false
	for _, part := range s.Ordered() {
		for _, e := range events {
			name, err := s.typeOf(e)
			if err != nil {
				return fmt.Errorf("%s: %w", e.title(), err)
			}
			ordered = ordered || part.bindings[name] != nil
		}
	}
	if !ordered {
		return nil
	}
	return tx.use(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "select pg_catalog.pg_advisory_xact_lock($1::int4, pg_catalog.hashtext($2))", turnLock, s.schema); err != nil {
			return fmt.Errorf("waiting for the turn to project: %w", err)
		}
		return nil
	})
}

// checkTurn returns ErrTurn if the session has not taken its turn.
func (s *Set) checkTurn(ctx context.Context, conn *pgx.Conn) error {
	var taken bool
	var isolation string
	err := conn.QueryRow(ctx, `
		select current_setting('transaction_isolation'), exists (
			select
			from pg_catalog.pg_locks
			where locktype = 'advisory' and pid = pg_backend_pid() and granted
			  and database = (select oid from pg_catalog.pg_database where datname = current_database())
			  and classid = $1::int8::oid and objid = (pg_catalog.hashtext($2)::int8 & 4294967295)::oid and objsubid = 2)`,
		int64(turnLock), s.schema).Scan(&isolation, &taken)
	switch {
	case err != nil:
		return fmt.Errorf("looking whether the transaction has taken its turn: %w", err)
	case !taken:
		return fmt.Errorf("%w: projector %s has the order %v: call Set.TakeTurn with the events before they are appended", ErrTurn, s.projectors[0].Name, s.Order())
	case isolation != "read committed":
		return fmt.Errorf("%w: projector %s has the order %v, and the transaction is %s, which may not show what those before it have projected: make it read committed",
			ErrTurn, s.projectors[0].Name, s.Order(), isolation)
	}
	return nil
}
