package viewschema

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

const (
	// lockTimeout bounds each wait for a lock in the cutover. While we wait for a table, everybody who comes after us
	// waits behind us, even readers: https://www.postgresql.org/docs/current/explicit-locking.html.
	lockTimeout = 80 * time.Millisecond
	// usualRate is how many events a second a cutover applies, as long as no catch-up has shown better.
	usualRate = 5_000
	// mostPasses bounds the catch-ups before the cutover, if the application appends faster than we apply.
	mostPasses = 20
	// heldElsewhere is how long the session that holds off writers in another database may be idle: while the tables are swapped
	// and the swap commits, which can take long, it has nothing to do.
	heldElsewhere = time.Minute
	// tellEvery is how often a cutover that waits for locks says so.
	tellEvery = 5 * time.Second
)

// cutover is one run of MigrateOffline.
type cutover struct {
	*Schema
	job    *replay.Job
	m      *migration
	plan   *Plan
	result *Result
	anew   []belonging // what the last try has made anew

	budget time.Duration // from asking for the writers' lock to giving up
	rate   float64       // events per second that the last catch-up applied
	behind bool          // catch up before the next try: there was no pass yet, or the last try took too long
	told   time.Time
}

// errBudget makes the transaction start again: the last events took longer than the budget allows.
var errBudget = errors.New("writers would be held off for longer than --pause-budget allows")

// errWriters makes the transaction start again, in maintenance: somebody writes.
var errWriters = errors.New("somebody writes events")

// run tries the cutover's transaction until it succeeds, fails for a reason that does not pass by itself, or LockWait is
// over.
func (c *cutover) run(ctx context.Context) error {
	if err := c.prepare(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(c.opts.LockWait)
	for try := 1; ; try++ {
		if err := c.shorten(ctx); err != nil {
			return err
		}
		err := c.attempt(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrLockLost):
			return err
		case errors.Is(err, errBudget), pg.IsStatementTimeout(err): // which is set to the budget
			c.behind = true
			c.rate /= 2 // it was too high
		case pg.IsConnectionLost(err):
			done, lookErr := c.happened(ctx)
			if done && lookErr == nil && c.elsewhere() { // the lock there went with the connection here
				return c.missed(ctx, err)
			}
			if done || lookErr != nil {
				return lookErr
			}
		case !pg.IsLockTimeout(err) && !pg.IsRetryable(err) && !errors.Is(err, errWriters):
			return fmt.Errorf("cutting over to version %d: %w", c.m.to, err)
		}
		if err := c.giveWay(ctx, try, deadline, err); err != nil {
			return err
		}
	}
}

// prepare finds the budget and whether we may hold off writers. While we hold the events and wait for a view table, an
// application that writes views before events would be in a deadlock with us; PostgreSQL looks for one after
// deadlock_timeout, and by then we have given up, even on a busy machine.
func (c *cutover) prepare(ctx context.Context) error {
	var deadlock float64
	err := c.db.QueryRow(ctx, "select extract(epoch from current_setting('deadlock_timeout')::interval)::float8").Scan(&deadlock)
	if err != nil {
		return fmt.Errorf("reading deadlock_timeout: %w", err)
	}
	c.budget = c.opts.PauseBudget
	if c.opts.Maintenance { // nobody writes, so nobody waits for us
		return nil
	}
	if most := time.Duration(deadlock*float64(time.Second)) * 3 / 4; c.budget > most {
		c.budget = most
		c.opts.Log.Warn().Stringer("pause_budget", most).Msg("the pause budget is kept below deadlock_timeout")
	}
	whyNot, err := c.job.Source.MayHoldWriters(ctx, c.events)
	if err != nil {
		return err
	}
	if whyNot != "" {
		return fmt.Errorf("%w: %s; or stop all writers and type: migrate offline --maintenance", ErrRefused, whyNot)
	}
	return nil
}

// shorten catches up: once at first, and then until what is left can be applied in half of the budget; the other half is
// for locks and names.
func (c *cutover) shorten(ctx context.Context) error {
	if len(c.plan.Projectors) == 0 {
		return nil
	}
	for passes := 0; ; passes++ {
		if !c.behind {
			var tail int64
			err := c.job.Retry(ctx, pg.PointList, func(tx pgx.Tx) (err error) {
				tail, err = c.job.Tail(ctx, tx)
				return err
			})
			if err != nil {
				return err
			}
			needs := time.Duration(float64(tail) / c.rate * float64(time.Second))
			if needs <= c.budget/2 {
				return nil
			}
			if passes >= mostPasses {
				return fmt.Errorf("%w: after %d catch-ups %d new events are left, which would hold writers off for about %s of the %s that --pause-budget and deadlock_timeout allow; slow the writers down, raise --pause-budget, or cut over at a quieter time",
					ErrRefused, passes, tail, needs.Round(time.Millisecond), c.budget)
			}
		}
		pass, err := c.job.CatchUp(ctx, eventstore.Wait{Limit: catchUpWait})
		if err != nil {
			return err
		}
		c.behind = false
		c.result.Events += pass.Events
		c.result.Rows += pass.Rows
		if pass.Events >= 100 && pass.Applying > 0 { // fewer say nothing about many
			c.rate = float64(pass.Events) / pass.Applying.Seconds() / float64(c.job.Parallelism())
		}
	}
}

// attempt runs the transaction once.
func (c *cutover) attempt(ctx context.Context) error {
	var asked time.Time
	var pass replay.Pass
	swap := func(events pgx.Tx) error {
		return pg.InTx(ctx, c.db, pg.PointCutover, func(tx pgx.Tx) (err error) {
			asked, pass, err = c.swap(ctx, tx, cmp.Or(events, tx))
			return err
		})
	}
	var err error
	if c.elsewhere() {
		err = c.holding(ctx, swap)
	} else {
		err = swap(nil)
	}
	if err != nil {
		return err
	}
	c.result.HeldOff = time.Since(asked)
	c.result.Events += pass.Events
	c.result.Rows += pass.Rows
	return nil
}

// holding runs swap with a transaction in the database of the events that holds off writers there until the tables have been
// swapped here. Nothing ties the two commits together: if the lock is lost between the last look at it and the commit of the
// swap, the new tables may lack events. That is said then, with their number.
func (c *cutover) holding(ctx context.Context, swap func(events pgx.Tx) error) error {
	swapped := false
	err := pg.InTx(ctx, c.events, pg.PointList, func(events pgx.Tx) error {
		if err := c.bound(ctx, events, heldElsewhere); err != nil {
			return err
		}
		err := swap(events)
		swapped = err == nil
		return err
	})
	if err == nil || !swapped {
		return err
	}
	return c.missed(ctx, err)
}

// missed says, after the cutover, how many events the store has that the new tables did not get. Writers were not held off to
// the end; cause says why.
func (c *cutover) missed(ctx context.Context, cause error) error {
	if len(c.plan.Projectors) == 0 {
		return nil
	}
	var lacking int64
	err := c.job.Retry(ctx, pg.PointList, func(tx pgx.Tx) (err error) {
		lacking, err = c.job.Tail(ctx, tx)
		return err
	})
	if err != nil || lacking > 0 {
		return errors.Join(fmt.Errorf("%w: version %d is live, and the store has %d events that its tables did not get from it; if one of them was appended before the commit, migrate once more: %w",
			ErrLockLost, c.m.to, lacking, cause), err)
	}
	return nil
}

// happened tells, after the connection was lost while COMMIT may have been under way, whether the cutover is done. The
// lock waits for the old transaction, should the server still be at it.
func (c *cutover) happened(ctx context.Context) (done bool, err error) {
	err = c.job.Retry(ctx, pg.PointList, func(tx pgx.Tx) error {
		var state replay.State
		err := tx.QueryRow(ctx, c.sql(`
			select state, coalesce(held_off, '0')
			from %SCHEMA%.projector_migrations
			where id = $1
			for update`), c.m.Migration).Scan(&state, &c.result.HeldOff)
		done = state == replay.Active
		return err
	})
	if err != nil {
		return false, fmt.Errorf("finding out whether the cutover to version %d has happened: %w; type: status", c.m.to, err)
	}
	return done, nil
}

// giveWay pauses before the next try, or ends the run if the time for it is over. It says who is in the way, now and then.
func (c *cutover) giveWay(ctx context.Context, try int, deadline time.Time, cause error) error {
	over := time.Now().After(deadline)
	if over || time.Since(c.told) > tellEvery {
		c.told = time.Now()
		blockers, err := c.blockers(ctx)
		if over {
			return errors.Join(fmt.Errorf("%w within %s: %w; in the way: %s; nothing has changed: end what is in the way, or wait longer with --lock-wait",
				ErrLockWait, c.opts.LockWait, cause, blockers), err)
		}
		c.opts.Log.Info().Err(cause).Int("try", try).Str("in_the_way", blockers).Msg("gave the locks back; trying again")
	}
	return pg.Pause(ctx, time.Duration(rand.Int64N(int64(min(try, 10))*int64(100*time.Millisecond))))
}

// blockers names who keeps the cutover from its locks at this moment: on the events, whoever keeps writers out or writes;
// on the guard, the live tables and those that reference them, everybody. Autovacuum of the event table is among them; it is waited out.
func (c *cutover) blockers(ctx context.Context) (string, error) {
	events, err := c.job.Source.Blockers(ctx, c.events)
	if err != nil {
		return "", err
	}
	relations := []string{pg.Table(c.def.Schema, guardName(c.m.from))}
	for _, t := range c.plan.Tables {
		relations = append(relations, pg.Table(c.def.Schema, t.Table))
	}
	var oids []uint32
	err = c.db.QueryRow(ctx, `
		select array(
			select to_regclass(r)::oid from pg_catalog.unnest($1::text[]) r where to_regclass(r) is not null
			union
			select k.conrelid from pg_catalog.unnest($1::text[]) r join pg_catalog.pg_constraint k on k.contype = 'f' and k.confrelid = to_regclass(r))`, relations).Scan(&oids)
	if err != nil {
		return "", fmt.Errorf("looking up the live tables: %w", err)
	}
	holders, err := pg.Holders(ctx, c.db, oids)
	if err != nil {
		return "", err
	}
	both := slices.DeleteFunc([]string{events, pg.Describe(holders)}, func(s string) bool { return s == "" })
	return cmp.Or(strings.Join(both, "; "), "nobody any more"), nil
}
