package viewschema

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// swap is the cutover's transaction. Its locks are taken in the order in which a guarded application takes them, so that
// they cannot deadlock: the guard, the events, the view tables. It returns when it asked for the writers' lock.
//
// events is the transaction in the database of the events, which may be tx.
func (c *cutover) swap(ctx context.Context, tx, events pgx.Tx) (asked time.Time, pass replay.Pass, err error) {
	if err := c.bound(ctx, tx, 2*c.budget); err != nil {
		return asked, pass, err
	}
	cut, err := c.job.Own(ctx, tx, replay.Built)
	if err != nil {
		return asked, pass, err
	}
	if err := c.checkParked(ctx, tx, c.m); err != nil { // again: from here on nobody parks
		return asked, pass, err
	}
	asked = time.Now()
	if err := c.closeGuard(ctx, tx, c.m.from); err != nil {
		return asked, pass, err
	}
	if err := c.holdWriters(ctx, events); err != nil {
		return asked, pass, err
	}
	if len(c.plan.Projectors) > 0 {
		if pass, err = c.finish(ctx, tx, cut, asked.Add(c.budget)); err != nil {
			return asked, pass, err
		}
	}
	if err := c.lockLive(ctx, tx, asked.Add(c.budget)); err != nil {
		return asked, pass, err
	}
	all, err := c.checkCutover(ctx, tx, c.plan) // again: from here on nobody can make anything that depends on them
	if err != nil {
		return asked, pass, err
	}
	// All locks are held: what follows waits for nobody, so nobody's patience matters but the operator's.
	_, err = tx.Exec(ctx, "select set_config('lock_timeout', $1, true), set_config('statement_timeout', '0', true)", pg.Milliseconds(lockTimeout))
	if err != nil {
		return asked, pass, err
	}
	if err := checkDeferred(ctx, tx); err != nil {
		return asked, pass, err
	}
	writable, err := c.writable(ctx, tx, c.plan)
	if err != nil {
		return asked, pass, err
	}
	if err := c.changeTables(ctx, tx, c.m, c.plan, all); err != nil {
		return asked, pass, err
	}
	if err := c.checkWritable(ctx, tx, writable); err != nil {
		return asked, pass, err
	}
	c.anew = all
	if err := c.keepParked(ctx, tx, c.m); err != nil {
		return asked, pass, err
	}
	if err := c.activate(ctx, tx, c.m, len(c.plan.Projectors) > 0 && c.job.HasBatches()); err != nil {
		return asked, pass, err
	}
	return asked, pass, c.prove(ctx, tx, events, pass)
}

// checkDeferred checks what rows that tx has written left to be checked at its commit: that would keep their tables from being altered.
func checkDeferred(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "set constraints all immediate"); err != nil {
		return fmt.Errorf("checking the deferred constraints: %w", err)
	}
	return nil
}

// bound makes the server give the locks back should this process hang or its machine be gone.
func (c *cutover) bound(ctx context.Context, tx pgx.Tx, idle time.Duration) error {
	_, err := tx.Exec(ctx, `
		select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true),
			set_config('idle_in_transaction_session_timeout', $3, true), set_config('row_security', 'off', true)`,
		pg.Milliseconds(min(lockTimeout, c.budget/2)), pg.Milliseconds(c.budget), pg.Milliseconds(idle))
	return err
}

// finish applies the last events, and stops when the budget is used up: statement_timeout bounds each statement, the
// deadline all of them. The connection is lost with it, and the server rolls back.
func (c *cutover) finish(ctx context.Context, tx pgx.Tx, cut int64, until time.Time) (replay.Pass, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, until, errBudget)
	defer cancel()
	pass, err := c.job.Finish(ctx, tx, cut)
	if pg.IsStatementTimeout(err) || errors.Is(context.Cause(ctx), errBudget) {
		err = fmt.Errorf("%w (%s)", errBudget, c.budget)
		if cut == 0 {
			err = fmt.Errorf("%w: with a cut of 0 the whole ledger is compared; stop the writers and type: migrate offline --maintenance --pause-budget 5m", err)
		}
	}
	return pass, err
}

// holdWriters takes the writers' lock; in maintenance, where we have not the right to it, it looks that nobody writes.
func (c *cutover) holdWriters(ctx context.Context, events pgx.Tx) error {
	if !c.opts.Maintenance {
		err := c.job.Source.HoldWriters(ctx, events)
		if errors.Is(err, eventstore.ErrUnsettled) {
			err = fmt.Errorf("%w: %w", errWriters, err)
		}
		return err
	}
	writers, err := c.job.Source.Writers(ctx, events)
	if err == nil && writers != "" {
		err = fmt.Errorf("%w: %s", errWriters, writers)
	}
	return err
}

// prove is the last statement before the commit. Of a lock in another database it looks whether it is still held: the
// session is alive. In maintenance it looks that nobody writes, and that nothing was appended since the last events were read;
// without the lock this is all that can be known: an application that is still running could append between here and the
// commit.
func (c *cutover) prove(ctx context.Context, tx, events pgx.Tx, pass replay.Pass) error {
	if !c.opts.Maintenance {
		if !c.elsewhere() {
			return nil
		}
		if _, err := events.Exec(ctx, "select"); err != nil {
			return fmt.Errorf("the lock on the events was lost: %w", err)
		}
		return nil
	}
	if len(c.plan.Projectors) == 0 {
		return nil
	}
	if err := c.holdWriters(ctx, events); err != nil {
		return err
	}
	appended, err := c.job.Tail(ctx, tx)
	if err != nil {
		return err
	}
	if pass.LaneTo > pass.LaneFrom { // a late commit below the lane's position is no tail
		now, err := c.job.Source.Count(ctx, events, eventstore.Selection{After: pass.LaneFrom, UpTo: pass.LaneTo})
		if err != nil {
			return err
		}
		appended = max(appended, now-pass.LaneEvents)
	}
	if appended > 0 {
		return fmt.Errorf("%w: %d events were appended during the cutover; stop all writers first", ErrRefused, appended)
	}
	return nil
}

// lockLive locks the live tables, in one order for all; from here on readers wait. A lock that cannot be had is tried again
// from a savepoint, so that readers who queue behind us get through, while the writers' lock and the last events stay.
func (c *cutover) lockLive(ctx context.Context, tx pgx.Tx, until time.Time) error {
	for {
		err := c.lockAll(ctx, tx, until)
		if err == nil || !pg.IsLockTimeout(err) || time.Now().After(until) {
			return err
		}
		if err := pg.Pause(ctx, time.Duration(rand.Int64N(int64(20*time.Millisecond)))); err != nil {
			return err
		}
	}
}

// lockAll waits for each lock as long as others may queue behind us, and for none after until.
func (c *cutover) lockAll(ctx context.Context, tx pgx.Tx, until time.Time) (err error) {
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = savepoint.Rollback(ctx) // the lock's failure is what matters; a broken transaction shows at the next statement
			return
		}
		err = savepoint.Commit(ctx)
	}()
	lock := func(what, sql string) error {
		sql = fmt.Sprintf("set local lock_timeout = %s; %s", pg.Milliseconds(min(lockTimeout, time.Until(until))), sql)
		if _, err := savepoint.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("locking %s: %w", what, err)
		}
		return nil
	}
	all, err := c.belongings(ctx, savepoint, c.plan)
	if err != nil {
		return err
	}
	for _, b := range all { // a reader locks the view first, and then its tables
		if b.Lock != "" && b.Problem == "" {
			if err := lock(b.What, b.Lock); err != nil {
				return err
			}
		}
	}
	live, err := c.existing(ctx, savepoint, names(c.plan.Tables)...)
	if err != nil {
		return err
	}
	for _, t := range live {
		if err := lock("table "+t, "lock table "+pg.Table(c.def.Schema, t)+" in access exclusive mode"); err != nil {
			return err
		}
	}
	return nil
}

// change does to one table what the plan says.
func (s *Schema) change(ctx context.Context, tx pgx.Tx, m *migration, t TableChange, successions []succession) error {
	switch t.Kind {
	case projector.KindAlter:
		for _, f := range t.alters {
			if err := s.runFile(ctx, tx, f, ""); err != nil {
				return err
			}
		}
		return nil
	case projector.KindReplay, projector.KindDrop:
		archived, err := s.archive(ctx, tx, m, t)
		if err != nil {
			return err
		}
		if t.Kind == projector.KindReplay {
			if err := s.publish(ctx, tx, t, got(successions, t), archived); err != nil {
				return err
			}
		}
	}
	return nil
}

// archive renames the live table out of the way, if there is one, and records its name.
func (s *Schema) archive(ctx context.Context, tx pgx.Tx, m *migration, t TableChange) (archived bool, err error) {
	exists, err := s.exists(ctx, tx, t.Table)
	if err != nil || !exists {
		return false, err
	}
	if t.Archived == "" {
		return false, fmt.Errorf("%w: table %s appeared since the migration began; no migration has made it: rename or drop it", ErrRefused, t.Table)
	}
	if err := s.rename(ctx, tx, t.Table, t.Archived, nil); err != nil {
		return false, err
	}
	_, err = tx.Exec(ctx, s.sql("update %SCHEMA%.projector_tables set archived_name = $3 where migration_id = $1 and table_name = $2"),
		m.Migration, t.Table, t.Archived)
	return true, err
}

// publish gives the new table the plain name, and the owner and rights of the table that had it. got are the names that it and its partitions get, the table's first.
func (s *Schema) publish(ctx context.Context, tx pgx.Tx, t TableChange, got []succession, archived bool) error {
	if err := s.rename(ctx, tx, t.Built, t.Table, s.plainNames(t)); err != nil {
		return err
	}
	if err := s.advanceSequences(ctx, tx, got); err != nil {
		return err
	}
	if !archived {
		return nil
	}
	if err := s.carryRights(ctx, tx, got); err != nil {
		return err
	}
	if err := s.carryProperties(ctx, tx, got); err != nil {
		return err
	}
	return s.revokeAll(ctx, tx, t.Archived) // its policies are gone; and nobody has to find it by mistake
}

// got returns the names that the new table and its partitions get.
func got(successions []succession, t TableChange) []succession {
	return slices.DeleteFunc(slices.Clone(successions), func(p succession) bool { return p.of.Table != t.Table || p.built == "" })
}

// activate records the version and opens its guard. The ledger stays: if it is complete, it tells at this moment for the old tables,
// too, which events they hold.
func (s *Schema) activate(ctx context.Context, tx pgx.Tx, m *migration, complete bool) error {
	_, err := tx.Exec(ctx, s.sql("update %SCHEMA%.projector_migrations set state = 'archived' where state = 'active'"))
	if err != nil {
		return fmt.Errorf("archiving version %d: %w", m.from, err)
	}
	if _, err := tx.Exec(ctx, s.sql("delete from %SCHEMA%.projector_throttles where migration_id = $1"), m.Migration); err != nil {
		return fmt.Errorf("ending the throttle of version %d: %w", m.to, err) // who is paused would never learn that it is over
	}
	if _, err := tx.Exec(ctx, s.sql("delete from %SCHEMA%.projector_marks where migration_id = $1"), m.Migration); err != nil {
		return fmt.Errorf("removing the marks of version %d: %w", m.to, err) // that processes which died have left
	}
	// now() is when the transaction began, which is when the cutover asked for its first lock.
	_, err = tx.Exec(ctx, s.sql(`
		update %SCHEMA%.projector_migrations
		set state = 'active', active_at = clock_timestamp(), held_off = clock_timestamp() - now(), complete = $2
		where id = $1`), m.Migration, complete)
	if err != nil {
		return fmt.Errorf("recording version %d: %w", m.to, err)
	}
	return s.openGuard(ctx, tx, m.to)
}
