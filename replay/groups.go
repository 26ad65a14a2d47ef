package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/alitto/pond/v2"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// catchUp is the work of one pass: a reader reads what the ledger lacks, once and in the order of aggregates, and cuts it
// into portions of whole aggregates, of which workers make groups that they apply in transactions of their own.
type catchUp struct {
	job          *Job
	workers      int
	mark         *mark // nil: events are read from the primary
	made         *mark // after the snapshot was taken in which they are read from the primary
	portions     chan portion
	held         atomic.Bool // not all were applied, since nothing new may be begun
	settled      int64       // the cut, 0: none
	whole        int64       // events up to it in the snapshot that was read: in the ledger, and lacking; unknown: they were not counted
	events, rows atomic.Int64
}

// unknown is a number of events that were not counted.
const unknown = -1

// applyGroups applies what the ledger lacks; if a standby is read, of that what is settled up to the cut, and 0 is for nothing. If it
// is held back, it begins anew afterwards: what was applied is not lacking then. It returns how many events there are from the ledger's
// cut to the settled one, if it knows.
func (j *Job) applyGroups(ctx context.Context, p *Pass, settled int64) (whole int64, err error) {
	standby := settled
	for {
		if err := j.Throttle.wait(ctx); err != nil {
			return unknown, err
		}
		c := &catchUp{job: j, settled: settled}
		err := c.run(ctx, p, standby)
		if canceled(err) && ctx.Err() == nil {
			j.Log.Warn().Err(err).Msg("catching up from the primary")
			standby = 0
			continue
		}
		if err != nil || !c.held.Load() {
			return c.whole, err
		}
	}
}

// run applies what the ledger lacks, until it is held back. Up to a cut, a standby may be read.
func (c *catchUp) run(ctx context.Context, p *Pass, standby int64) error {
	j := c.job
	_, workers, err := j.share(1)
	if err != nil {
		return err
	}
	c.workers, c.portions = workers, make(chan portion, workers*groupPortions)
	err = j.trying(ctx, func() (err error) {
		c.mark, err = j.mark(ctx, standby)
		return err
	})
	if err != nil {
		return err
	}
	defer c.mark.remove(ctx)
	defer func() { c.made.remove(ctx) }()
	began := time.Now()
	var total int64
	if j.Progress != nil {
		if total, err = c.total(ctx); err != nil {
			return err
		}
	}
	stop := Report(ctx, j.Progress, func() Progress {
		n := c.events.Load()
		return Progress{Phase: PhaseReplay, Events: max(total, n), EventsDone: n, Rows: c.rows.Load(), OwnEvents: n, OwnRows: c.rows.Load(), Elapsed: time.Since(began)}
	})
	pool := pond.NewPool(1 + workers)
	defer pool.StopAndWait()
	group := pool.NewGroupContext(ctx)
	group.SubmitErr(func() error {
		defer close(c.portions)
		err := c.read(group.Context())
		if errors.Is(err, errHeld) {
			c.held.Store(true)
			return nil
		}
		return err
	})
	for range workers {
		group.SubmitErr(func() error { return c.apply(group.Context()) })
	}
	err = wait(ctx, group)
	stop()
	p.Events += c.events.Load()
	p.Rows += c.rows.Load()
	return err
}

// total counts what there is to apply.
func (c *catchUp) total(ctx context.Context) (n int64, err error) {
	if c.mark == nil {
		return c.job.Tail(ctx, c.job.DB)
	}
	err = c.fromStandby(ctx, func(tx pgx.Tx, lacks eventstore.Selection) error {
		n, err = c.job.Source.Count(ctx, tx, lacks)
		return err
	})
	return n, err
}

// fromStandby runs fn in a snapshot of the standby, with what the ledger lacks there of what is settled. The ledger of the snapshot is
// older than the one on the primary: what another pass has recorded since is found again, and refused when it is recorded.
func (c *catchUp) fromStandby(ctx context.Context, fn func(tx pgx.Tx, lacks eventstore.Selection) error) error {
	return c.job.trying(ctx, func() error {
		return c.mark.read(ctx, stuck, func(tx pgx.Tx) error {
			cut, err := c.job.cut(ctx, tx)
			if err != nil {
				return err
			}
			return fn(tx, eventstore.Selection{After: cut, UpTo: c.mark.cut, Except: c.job.replayed()})
		})
	})
}

// read reads again from the beginning after a lost connection: what is applied by then is not lacking any more. It is one snapshot, in
// which what is recorded and what is lacking are all that there is.
func (c *catchUp) read(ctx context.Context) error {
	c.whole = unknown
	if c.mark != nil {
		return c.fromStandby(ctx, func(tx pgx.Tx, lacks eventstore.Selection) (err error) {
			_, err = c.scan(ctx, tx, lacks)
			return err
		})
	}
	return c.job.retry(ctx, pg.InSnapshot, pg.PointList, func(tx pgx.Tx) error {
		cut, err := c.job.cut(ctx, tx)
		if err != nil {
			return err
		}
		lacks, err := c.job.lacks(ctx, tx, cut, nil)
		if err != nil {
			return err
		}
		if c.job.Projections.Parallel().OnlySQL() {
			return c.list(ctx, tx, lacks)
		}
		return c.job.eventsTx(ctx, tx, func(events pgx.Tx) error {
			lacking, err := c.scan(ctx, events, lacks)
			if err != nil || events != tx || c.job.Source.SharedPositions() {
				return err
			}
			recorded, err := c.job.recorded(ctx, tx, c.settled)
			if err == nil {
				c.whole = recorded + lacking
			}
			return err
		})
	})
}

// scan makes portions of events, and returns how many there are up to the settled cut.
func (c *catchUp) scan(ctx context.Context, tx pgx.Tx, lacks eventstore.Selection) (settled int64, err error) {
	c.drop()
	types, size := types{}, c.portionSize()
	p, events := portion{mark: c.mark}, int64(0)
	var aggregate projections.ID
	for e, err := range c.job.Source.Scan(ctx, tx, lacks) {
		if err == nil && p.mark == nil { // the snapshot is taken: a server that has what is committed now has these events
			c.made.remove(ctx)
			c.made, err = c.job.newMark(ctx, 0)
			p.mark = c.made
		}
		if err != nil {
			return 0, err
		}
		if e.AggregateID != aggregate && (events >= size || len(p.chunks) > 1) {
			if err := c.send(ctx, p); err != nil {
				return 0, err
			}
			p, events = portion{mark: p.mark}, 0
		}
		aggregate = e.AggregateID
		p.last(e).add(e, types.keep(e.Type))
		events++
		if e.Position <= c.settled {
			settled++
		}
	}
	return settled, c.send(ctx, p)
}

// list makes portions of aggregates, without their events.
func (c *catchUp) list(ctx context.Context, tx pgx.Tx, sel eventstore.Selection) error {
	c.drop()
	lacking, err := c.job.Source.Aggregates(ctx, tx, sel)
	if err != nil {
		return err
	}
	size := c.portionSize()
	var p portion
	var events int64
	for _, a := range lacking {
		p.aggregates = append(p.aggregates, a.ID)
		if events += a.Events; events >= size {
			if err := c.send(ctx, p); err != nil {
				return err
			}
			p, events = portion{}, 0
		}
	}
	return c.send(ctx, p)
}

func (c *catchUp) send(ctx context.Context, p portion) error {
	if len(p.chunks)+len(p.aggregates) == 0 {
		return nil
	}
	if c.job.Throttle.held() {
		return errHeld
	}
	select {
	case c.portions <- p:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// apply applies groups until there are no more. What was read may be old by then: events up to a cut that another pass has
// moved are in the tables, and a position that another pass has recorded is an error, after which the group is read anew.
func (c *catchUp) apply(ctx context.Context) error {
	j := c.job
	t := j.catchUpTables()
	if err := j.retry(ctx, j.work(), pg.PointList, func(tx pgx.Tx) error { return j.lookAhead(ctx, tx, t) }); err != nil {
		return fmt.Errorf("catching up version %d: %w", j.Version, err)
	}
	var g group
	for {
		if more, err := c.take(ctx, &g); !more || err != nil {
			return err
		}
		fresh := g.read
		var done Pass
		group := func(tx pgx.Tx) error {
			cut, has, err := j.beginGroup(ctx, tx, g.mark)
			if err != nil {
				return err
			}
			if !fresh || !has {
				fresh = false
				done, err = j.apply(ctx, tx, t, cut, g.aggregates)
				return err
			}
			fresh = false
			for i, events := range g.events {
				g.events[i] = slices.DeleteFunc(events, func(e projections.Raw) bool { return e.Position <= cut })
			}
			done, err = j.applyEvents(ctx, tx, t, g.aggregates, g.events...)
			return err
		}
		err := j.parking(ctx, t, func() error { return j.retry(ctx, j.work(), pg.PointGroup, group) })
		if err != nil {
			return fmt.Errorf("catching up version %d: %w", j.Version, err)
		}
		c.events.Add(done.Events)
		c.rows.Add(done.Rows)
		if err := j.Throttle.take(ctx, done.Events); err != nil {
			return err
		}
	}
}

// lookAhead does what every group begins with, while the reader waits for its first events: it connects, compares the tables with their
// models, and has the server read the catalog into the session's caches. So a pass with nothing to do fails, too, if they do not fit.
func (j *Job) lookAhead(ctx context.Context, tx pgx.Tx, t tables) error {
	if _, _, err := j.beginGroup(ctx, tx, nil); err != nil {
		return err
	}
	return t.run.Begin(ctx, tx, nil)
}

// beginGroup enters, and says whether the server has the mark, in one round trip. The commit is not waited for: moveCut looks whether
// it has come to stay.
func (j *Job) beginGroup(ctx context.Context, tx pgx.Tx, m *mark) (cut int64, has bool, err error) {
	all := &pgx.Batch{}
	all.Queue(j.lockQuery("for key share"), j.Migration, RunLock, j.Ledger.Run).QueryRow(func(row pgx.Row) (err error) {
		cut, err = j.locked(row, Built)
		return err
	})
	all.Queue("set local synchronous_commit = off")
	has = m == nil
	if m != nil {
		all.Queue(j.sql("select "+exists), m.id).QueryRow(func(row pgx.Row) error { return row.Scan(&has) })
	}
	err = tx.SendBatch(ctx, all).Close()
	return cut, has, err
}

// applyRest applies what the ledger lacks as one group.
func (j *Job) applyRest(ctx context.Context, p *Pass) error {
	var done Pass
	t := j.catchUpTables()
	err := j.parking(ctx, t, func() error {
		return j.retry(ctx, j.work(), pg.PointGroup, func(tx pgx.Tx) error {
			cut, err := j.enter(ctx, tx, Built)
			if err == nil {
				done, err = j.apply(ctx, tx, t, cut, nil)
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("catching up version %d: %w", j.Version, err)
	}
	p.Events += done.Events
	p.Rows += done.Rows
	return nil
}
