package eventstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// settleTransactions needs nothing but a snapshot: whoever has an id below its xmin has ended, prepared transactions
// included, and ids are only given out upwards.
func (r *Reader) settleTransactions(ctx context.Context, db pg.Querier) (Cut, error) {
	foreign, oldest, next, err := r.transactions(ctx, db)
	if err == nil && foreign != "" {
		err = fmt.Errorf("%w: %s", ErrMapping, foreign)
	}
	if err != nil {
		return Cut{}, err
	}
	return Cut{Position: oldest - 1, Drawn: next - 1}, nil
}

// transactions returns the id of the oldest transaction that is open, and the next id that the server will give out. foreign
// says that there are events whose transaction, by its id, cannot have committed yet: it was another server's. The
// transaction of that id would write events that the ledger takes for those that it has.
func (r *Reader) transactions(ctx context.Context, db pg.Querier) (foreign string, oldest, next int64, err error) {
	var highest int64
	from, column := r.relation+" e", r.mapping.Position
	if isExpression(column) {
		from = r.from("")
	} else {
		column = pgx.Identifier{column}.Sanitize()
	}
	err = db.QueryRow(ctx, fmt.Sprintf(`
		select coalesce((
				select max(%[1]s)
				from %[2]s
				where %[1]s >= pg_catalog.pg_snapshot_xmin(s)::text::int8
				  and not pg_catalog.pg_visible_in_snapshot((%[1]s)::text::xid8, s)), 0)::int8,
			pg_catalog.pg_snapshot_xmin(s)::text::int8, pg_catalog.pg_snapshot_xmax(s)::text::int8
		from pg_catalog.pg_current_snapshot() s`, r.drawn, from)).Scan(&highest, &oldest, &next)
	if err != nil {
		return "", 0, 0, fmt.Errorf("reading the transaction ids of %s: %w", r.relation, err)
	}
	if highest > 0 {
		foreign = fmt.Sprintf("events of %s have transaction ids up to %d, and the next one of this server is %d: "+
			"they were copied from another server, as by restoring a dump, and events to come would be taken for them; "+
			"stop the writers and let the events count as old: update %s as e set %s = null where %s >= %d",
			r.relation, highest, next, r.relation, column, r.drawn, next)
	}
	return foreign, oldest, next, nil
}

// ForeignTransactions says that the store has transaction ids of another server, and what to do about it: no migration can
// begin then. It is empty if there are none, or positions are no transaction ids.
func (r *Reader) ForeignTransactions(ctx context.Context, db pg.Querier) (whyNot string, err error) {
	if r.mapping.Positions != PositionsOfTransactions || r.distributed {
		return "", nil
	}
	whyNot, _, _, err = r.transactions(ctx, db)
	return whyNot, err
}
