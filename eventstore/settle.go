package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pg"
)

// Cut is a settled cut: every event at or below Position is visible to every snapshot taken from now on, or will never
// exist. A Position of 0 is always right; Reason then says why there is no better one.
type Cut struct {
	Position int64
	Drawn    int64 // the last number that was given out; not below Position
	Reason   string
}

// Wait tells how long to wait for a cut, and whom to tell.
type Wait struct {
	Limit   time.Duration      // 0: until ctx ends
	Blocked func(about string) // called when writers outlast an instant, and when their number has changed; may be nil
}

// ErrUnsettled is returned by Settle when writers outlast Wait.Limit. The text names them.
var ErrUnsettled = errors.New("transactions that may still bring events are open")

// Settle waits until no transaction can bring an event at or below the highest position any more, and returns that
// position. It holds nothing on the server while it waits but a session: no snapshot, no transaction, no lock. If the connection is
// lost, it starts over: the server may have restarted, and virtual transaction ids then mean other transactions.
//
// There is nothing to wait for if positions are in commit order, or are transaction ids.
func (r *Reader) Settle(ctx context.Context, db pg.Querier, wait Wait) (Cut, error) {
	waits := r.mapping.Positions == PositionsDrawn || r.mapping.Positions == PositionsDrawnAhead
	if waits && wait.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, wait.Limit, ErrUnsettled)
		defer cancel()
	}
	for try := 1; ; try++ {
		cut, err := r.settle(ctx, db, wait.Blocked)
		switch {
		case err == nil:
			return cut, nil
		case ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)):
			return cut, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case ctx.Err() != nil:
			return cut, err
		case try == connectTries || !pg.IsConnectionLost(err):
			return cut, err
		}
		select {
		case <-ctx.Done():
			return cut, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(time.Duration(try) * 200 * time.Millisecond):
		}
	}
}

// connectTries bounds how often a lost connection starts a wait over: with growing pauses, about ten seconds.
const connectTries = 10

// settle asks one session from the beginning to the end: that of another server, which has taken over, would know nobody who is waited for.
func (r *Reader) settle(ctx context.Context, db pg.Querier, blocked func(string)) (Cut, error) {
	if pool, ok := db.(*pgxpool.Pool); ok {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return Cut{}, err
		}
		defer conn.Release()
		db = conn
	}
	if reason, err := r.copied(ctx, db); reason != "" || err != nil {
		return Cut{Reason: reason}, err
	}
	if r.mapping.Positions == PositionsOfTransactions {
		return r.settleTransactions(ctx, db)
	}
	lowest, highest, err := r.ends(ctx, db)
	if err != nil {
		return Cut{}, err
	}
	if lowest < 1 {
		return Cut{}, fmt.Errorf("%w: %s has an event at position %d; positions have to be above 0", ErrMapping, r.relation, lowest)
	}
	if r.mapping.Positions == PositionsInCommitOrder && !r.distributed { // of one server: a commit is not visible on all at once
		return Cut{Position: highest, Drawn: highest}, nil
	}
	sequence, drawn, reason, err := r.distrust(ctx, db, highest)
	if err != nil {
		return Cut{}, err
	}
	if reason != "" {
		return Cut{Reason: reason}, nil
	}
	writers, err := r.writers(ctx, db, sequence)
	if err != nil {
		return Cut{}, err
	}
	if err := r.outwait(ctx, db, sequence, writers, blocked); err != nil {
		return Cut{}, err
	}
	return Cut{Position: highest, Drawn: max(highest, drawn)}, nil
}

// ends returns the lowest and the highest position: of the relation's rows if they are numbered by a sequence, of which an
// index knows them; else of the events.
func (r *Reader) ends(ctx context.Context, db pg.Querier) (lowest, highest int64, err error) {
	from, where := r.relation+" e", ""
	if r.mapping.Positions == PositionsInCommitOrder || isExpression(r.mapping.Position) {
		from = r.from("")
		if r.mapping.Where != "" {
			where = " and (" + r.mapping.Where + ")"
		}
	}
	// Not min and max, for which PostgreSQL would not use the index if there is a join.
	end := func(order string) string {
		return fmt.Sprintf("(select %[1]s from %[2]s where %[1]s is not null%[3]s order by %[1]s %[4]s limit 1)::int8",
			r.position, from, where, order)
	}
	err = db.QueryRow(ctx, fmt.Sprintf("select coalesce(%s, 1), coalesce(%s, 0)", end("asc"), end("desc")), pg.Once).Scan(&lowest, &highest)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the positions of %s: %w", r.relation, err)
	}
	return lowest, highest, nil
}

// Highest returns the highest position, 0 if there is none.
func (r *Reader) Highest(ctx context.Context, db pg.Querier) (int64, error) {
	_, highest, err := r.ends(ctx, db)
	return highest, err
}

// copied says why the positions tell nothing about this server's transactions: another one has committed the events.
func (r *Reader) copied(ctx context.Context, db pg.Querier) (reason string, err error) {
	if r.base.unlocked != "" {
		return r.base.unlocked, nil
	}
	if r.distributed && r.mapping.Positions == PositionsOfTransactions {
		return r.relation + " is distributed, and each of its servers has transaction ids of its own", nil
	}
	var subscribed bool
	err = db.QueryRow(ctx, `
		select exists (
			select
			from pg_catalog.pg_subscription_rel
			where srrelid in (`+pg.Tree("$1")+`))`,
		pg.Once, cmp.Or(r.base.table, r.oid)).Scan(&subscribed)
	if err != nil {
		return "", fmt.Errorf("looking up subscriptions to %s: %w", r.relation, err)
	}
	if subscribed {
		return r.relation + " is filled by logical replication", nil
	}
	return "", nil
}

// outwait returns when none of the writers is open any more. Those that came later do not matter: what they draw is above
// the highest position that was read before the first look.
func (r *Reader) outwait(ctx context.Context, db pg.Querier, sequence uint32, writers []pg.Holder, blocked func(string)) error {
	told := 0
	for pause := 2 * time.Millisecond; len(writers) > 0; pause = min(2*pause, 200*time.Millisecond) {
		if pause > 100*time.Millisecond && len(writers) != told && blocked != nil { // most are gone before anybody reads
			told = len(writers)
			blocked(pg.Describe(writers))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", pg.Describe(writers), context.Cause(ctx))
		case <-time.After(pause):
		}
		now, err := r.writers(ctx, db, sequence)
		switch {
		case err != nil && ctx.Err() != nil: // in the middle of it
			return fmt.Errorf("waiting for %s: %w", pg.Describe(writers), context.Cause(ctx))
		case err != nil:
			return err
		}
		open := map[string]bool{}
		for _, w := range now {
			open[w.Transaction] = true
		}
		still := writers[:0]
		for _, w := range writers {
			if open[w.Transaction] {
				still = append(still, w)
			}
		}
		writers = still
	}
	return nil
}

// writers lists the transactions that hold a write lock on the event table, a table below it, or its sequence.
func (r *Reader) writers(ctx context.Context, db pg.Querier, sequence uint32) ([]pg.Holder, error) {
	return r.holders(ctx, db, []uint32{r.base.table, sequence}, writeModes...)
}

// Writers names the transactions that write events at this moment; it is empty if there are none.
func (r *Reader) Writers(ctx context.Context, db pg.Querier) (string, error) {
	holders, err := r.holders(ctx, db, r.Relations(), writeModes...)
	return pg.Describe(holders), err
}

// writeModes are the locks of those who write. ShareUpdateExclusiveLock is not among them: VACUUM and ANALYZE write no event.
var writeModes = []string{pg.RowExclusive, pg.ShareRowExclusive, pg.Exclusive, pg.AccessExclusive}

// Blockers names the transactions that keep HoldWriters waiting; it is empty if there are none.
func (r *Reader) Blockers(ctx context.Context, db pg.Querier) (string, error) {
	holders, err := r.holders(ctx, db, r.Relations(), append([]string{pg.ShareUpdateExclusive, pg.Share}, writeModes...)...)
	return pg.Describe(holders), err
}

// Distrust says why the positions of this store cannot be settled, from the catalog; it is empty if they can.
func (r *Reader) Distrust(ctx context.Context, db pg.Querier) (reason string, err error) {
	if reason, err = r.copied(ctx, db); reason == "" && err == nil {
		_, _, reason, err = r.distrust(ctx, db, 0)
	}
	return reason, err
}

// distrust returns the sequence to watch and the last number that it has given out. highest is the highest position seen.
func (r *Reader) distrust(ctx context.Context, db pg.Querier, highest int64) (sequence uint32, last int64, reason string, err error) {
	switch {
	case r.mapping.Positions == PositionsInCommitOrder || r.mapping.Positions == PositionsOfTransactions:
		return 0, 0, "", nil
	case r.mapping.Positions == PositionsDrawnAhead:
		return 0, 0, "the mapping says that positions are drawn ahead of the transactions that insert events", nil
	case r.base.reason != "":
		return 0, 0, r.base.reason, nil
	}
	var increment, cache int64
	var readable, standby bool
	var name, role string
	err = db.QueryRow(ctx, `
		select coalesce(s.seqrelid, 0), coalesce(s.seqincrement, 0), coalesce(s.seqcache, 0),
			coalesce(has_sequence_privilege(s.seqrelid, 'select,usage'), false), coalesce(s.seqrelid::regclass::text, ''), current_user, pg_catalog.pg_is_in_recovery()
		from pg_catalog.pg_attribute a
		left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		left join lateral (
			select dep.objid as sequence -- an identity column's own
			from pg_catalog.pg_depend dep
			join pg_catalog.pg_class c on c.oid = dep.objid and c.relkind = 'S'
			where dep.classid = 'pg_class'::regclass and dep.refclassid = 'pg_class'::regclass
			  and dep.refobjid = a.attrelid and dep.refobjsubid = a.attnum and dep.deptype = 'i'
			union all
			select dep.refobjid -- the one of a nextval default
			from pg_catalog.pg_depend dep
			join pg_catalog.pg_class c on c.oid = dep.refobjid and c.relkind = 'S'
			where dep.classid = 'pg_attrdef'::regclass and dep.objid = d.oid and dep.refclassid = 'pg_class'::regclass
			  and pg_get_expr(d.adbin, d.adrelid) like 'nextval(%'
			limit 1
		) owned on true
		left join pg_catalog.pg_sequence s on s.seqrelid = owned.sequence
		where a.attrelid = $1 and a.attname = $2`, pg.Once, r.base.table, r.base.position).
		Scan(&sequence, &increment, &cache, &readable, &name, &role, &standby)
	if err != nil {
		return 0, 0, "", fmt.Errorf("looking up the sequence of %s.%s: %w", r.relation, r.mapping.Position, err)
	}
	position := r.relation + "." + r.mapping.Position
	switch {
	case standby:
		return 0, 0, "the server is a standby, which does not see the primary's locks", nil
	case sequence == 0:
		return 0, 0, position + " has no sequence as its default", nil
	case increment != 1 || cache != 1:
		return 0, 0, fmt.Sprintf("the sequence of %s has increment %d and cache %d, so a session can draw numbers ahead of its transactions", position, increment, cache), nil
	case !readable:
		return 0, 0, fmt.Sprintf("our role may not read the sequence of %s; type: grant select on sequence %s to %s", position, name, role), nil
	}
	if other, err := r.otherDefault(ctx, db, sequence); err != nil || other != "" {
		return 0, 0, other, err
	}
	err = db.QueryRow(ctx, "select coalesce(pg_catalog.pg_sequence_last_value($1), 0)", pg.Once, sequence).Scan(&last)
	if err != nil {
		return 0, 0, "", fmt.Errorf("reading the sequence of %s: %w", position, err)
	}
	if highest > last {
		return 0, 0, fmt.Sprintf("%s has reached %d but its sequence stands at %d, so some numbers did not come from it", position, highest, last), nil
	}
	return sequence, last, "", nil
}

// otherDefault says that a table below the event table numbers the events that are inserted into it by its name from something else than the
// sequence: they could be below a cut. It is empty if none does. A partition that has no default leaves the number to the application.
func (r *Reader) otherDefault(ctx context.Context, db pg.Querier, sequence uint32) (reason string, err error) {
	err = db.QueryRow(ctx, `
		select coalesce(min(pg_catalog.format('%s has a default of its own for the position, which does not draw from %s', a.attrelid::regclass, $3::oid::regclass)), '')
		from (`+pg.Tree("$1")+`) tree
		join pg_catalog.pg_attribute a on a.attrelid = tree.id and a.attname = $2
		left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		where a.attrelid <> $1
		  and (d.oid is not null or a.attidentity <> '')
		  and not exists (
			select
			from pg_catalog.pg_depend o
			where o.classid = 'pg_attrdef'::regclass and o.objid = d.oid and o.refclassid = 'pg_class'::regclass and o.refobjid = $3
			  and pg_get_expr(d.adbin, d.adrelid) like 'nextval(%')
		  and not exists ( -- from PostgreSQL 17 on, the identity of its table
			select
			from pg_catalog.pg_depend o
			where o.classid = 'pg_class'::regclass and o.objid = $3 and o.refclassid = 'pg_class'::regclass and o.refobjid = $1 and o.deptype = 'i'
			  and a.attidentity <> '' and not exists (
				select
				from pg_catalog.pg_depend own
				join pg_catalog.pg_sequence s on s.seqrelid = own.objid
				where own.classid = 'pg_class'::regclass and own.refclassid = 'pg_class'::regclass and own.refobjid = a.attrelid
				  and own.refobjsubid = a.attnum and own.deptype = 'i'))`, pg.Once, r.base.table, r.base.position, sequence).Scan(&reason)
	if err != nil {
		return "", fmt.Errorf("looking up the defaults below %s: %w", r.relation, err)
	}
	return reason, nil
}

// MayHoldWriters says why HoldWriters would not do what it has to: our role has none of the rights that it takes, or the
// lock does not reach the writers. It is empty if nothing is in the way.
func (r *Reader) MayHoldWriters(ctx context.Context, db pg.Querier) (whyNot string, err error) {
	if r.base.unlocked != "" {
		return r.base.unlocked, nil
	}
	var may bool
	err = db.QueryRow(ctx, `
		select has_table_privilege($1::oid, 'update, delete, truncate')
			or case when current_setting('server_version_num')::int >= 170000 then has_table_privilege($1::oid, 'maintain') else false end`, r.oid).Scan(&may)
	if err != nil {
		return "", fmt.Errorf("looking up our rights on %s: %w", r.relation, err)
	}
	if !may {
		return "our role may not lock " + r.relation + ", which takes the right to update, delete or truncate it: grant one", nil
	}
	return "", nil
}

// HoldWriters keeps everybody from writing events until the transaction ends; readers go on. It waits for writers that
// are under way as long as the transaction's lock_timeout allows, and whoever comes after waits behind it. The lock is on partitions, too:
// who writes these need not lock their table. ErrUnsettled: in a cluster, a transaction that has ended here has not on all nodes.
func (r *Reader) HoldWriters(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "lock table "+r.relation+" in share row exclusive mode"); err != nil {
		return fmt.Errorf("holding off the writers of %s: %w", r.relation, err)
	}
	return r.checkHeld(ctx, tx)
}
