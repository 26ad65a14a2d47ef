package replay

import (
	"cmp"
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

// groupSize is about how many events a group of a catch-up holds. Its events and rows are in memory at once.
const groupSize = 3_000

// catchUp is the work of one pass: a reader reads what the ledger lacks, once and in the order of aggregates, and cuts it
// into groups of whole aggregates, which workers apply in transactions of their own.
type catchUp struct {
	job          *Job
	mark         *mark // nil: events are read from the primary
	made         *mark // after the snapshot was taken in which they are read from the primary
	groups       chan group
	held         bool // not all were read, since nothing new may be begun
	events, rows atomic.Int64
}

// group is some aggregates and what the ledger lacks of them. Of a set of SQL tables alone, the events stay in the database.
type group struct {
	aggregates []projections.ID
	events     []projections.Raw
	mark       *mark // a server that has it has the events
}

// applyGroups applies what the ledger lacks; if a standby is read, of that what is settled up to the cut, and 0 is for nothing. If it
// is held back, it begins anew afterwards: what was applied is not lacking then.
func (j *Job) applyGroups(ctx context.Context, p *Pass, settled int64) error {
	for {
		if err := j.Throttle.wait(ctx); err != nil {
			return err
		}
		held, err := j.applySome(ctx, p, settled)
		if canceled(err) && ctx.Err() == nil {
			j.Log.Warn().Err(err).Msg("catching up from the primary")
			settled = 0
			continue
		}
		if err != nil || !held {
			return err
		}
	}
}

// applySome applies what the ledger lacks, until it is held back.
func (j *Job) applySome(ctx context.Context, p *Pass, settled int64) (held bool, err error) {
	_, workers, err := j.share(1)
	if err != nil {
		return false, err
	}
	c := &catchUp{job: j, groups: make(chan group)}
	err = j.trying(ctx, func() (err error) {
		c.mark, err = j.mark(ctx, settled)
		return err
	})
	if err != nil {
		return false, err
	}
	defer c.mark.remove(ctx)
	defer func() { c.made.remove(ctx) }()
	began := time.Now()
	var total int64
	if j.Progress != nil {
		if total, err = c.total(ctx); err != nil {
			return false, err
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
		defer close(c.groups)
		err := c.read(group.Context())
		if c.held = errors.Is(err, errHeld); c.held {
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
	return c.held, err
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

// read reads again from the beginning after a lost connection: what is applied by then is not lacking any more.
func (c *catchUp) read(ctx context.Context) error {
	size := int(cmp.Or(c.job.groupSize, groupSize))
	if c.mark != nil {
		return c.fromStandby(ctx, func(tx pgx.Tx, lacks eventstore.Selection) error { return c.scan(ctx, tx, lacks, size) })
	}
	return c.job.Retry(ctx, pg.PointList, func(tx pgx.Tx) error {
		cut, err := c.job.cut(ctx, tx)
		if err != nil {
			return err
		}
		lacks, err := c.job.lacks(ctx, tx, cut, nil)
		if err != nil {
			return err
		}
		if c.job.Projections.Parallel().OnlySQL() {
			return c.list(ctx, tx, lacks, int64(size))
		}
		return c.job.eventsTx(ctx, tx, func(tx pgx.Tx) error { return c.scan(ctx, tx, lacks, size) })
	})
}

// scan makes groups of events.
func (c *catchUp) scan(ctx context.Context, tx pgx.Tx, lacks eventstore.Selection, size int) error {
	var events []projections.Raw
	m := c.mark
	for e, err := range c.job.Source.Scan(ctx, tx, lacks) {
		if err == nil && m == nil { // the snapshot is taken: a server that has what is committed now has these events
			c.made.remove(ctx)
			c.made, err = c.job.newMark(ctx, 0)
			m = c.made
		}
		if err != nil {
			return err
		}
		if n := len(events); n >= size && events[n-1].AggregateID != e.AggregateID {
			if err := c.send(ctx, group{aggregatesOf(events), events, m}); err != nil {
				return err
			}
			events = make([]projections.Raw, 0, len(events))
		}
		events = append(events, e.Clone())
	}
	return c.send(ctx, group{aggregatesOf(events), events, m})
}

// list makes groups of aggregates, without their events.
func (c *catchUp) list(ctx context.Context, tx pgx.Tx, sel eventstore.Selection, size int64) error {
	lacking, err := c.job.Source.Aggregates(ctx, tx, sel)
	if err != nil {
		return err
	}
	var g group
	var events int64
	for _, a := range lacking {
		g.aggregates = append(g.aggregates, a.ID)
		if events += a.Events; events >= size {
			if err := c.send(ctx, g); err != nil {
				return err
			}
			g, events = group{}, 0
		}
	}
	return c.send(ctx, g)
}

func (c *catchUp) send(ctx context.Context, g group) error {
	if len(g.aggregates) == 0 {
		return nil
	}
	if c.job.Throttle.held() {
		return errHeld
	}
	select {
	case c.groups <- g:
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
	for {
		var g group
		var open bool
		select {
		case g, open = <-c.groups:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !open {
			return nil
		}
		fresh := g.events != nil
		var done Pass
		group := func(tx pgx.Tx) error {
			cut, err := j.enter(ctx, tx, Built)
			if err != nil {
				return err
			}
			// moveCut looks whether the commit has come to stay.
			if _, err := tx.Exec(ctx, "set local synchronous_commit = off"); err != nil {
				return err
			}
			if fresh {
				if fresh, err = g.mark.on(ctx, tx); err != nil {
					return err
				}
			}
			if !fresh {
				done, err = j.apply(ctx, tx, t, cut, g.aggregates)
				return err
			}
			fresh = false
			lacking := slices.DeleteFunc(g.events, func(e projections.Raw) bool { return e.Position <= cut })
			done, err = j.applyEvents(ctx, tx, t, lacking)
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

func aggregatesOf(events []projections.Raw) (ids []projections.ID) {
	for _, e := range events {
		if len(ids) == 0 || ids[len(ids)-1] != e.AggregateID {
			ids = append(ids, e.AggregateID)
		}
	}
	return ids
}
