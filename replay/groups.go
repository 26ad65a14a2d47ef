package replay

import (
	"cmp"
	"context"
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
const groupSize = 2_000

// catchUp is the work of one pass: a reader reads what the ledger lacks, once and in the order of aggregates, and cuts it
// into groups of whole aggregates, which workers apply in transactions of their own.
type catchUp struct {
	job          *Job
	groups       chan []projections.Raw
	events, rows atomic.Int64
}

// applyGroups applies what the ledger lacks.
func (j *Job) applyGroups(ctx context.Context, p *Pass) error {
	_, workers, err := j.share(1)
	if err != nil {
		return err
	}
	c := &catchUp{job: j, groups: make(chan []projections.Raw)}
	began := time.Now()
	var total int64
	if j.Progress != nil {
		if total, err = j.Tail(ctx, j.DB); err != nil {
			return err
		}
	}
	stop := Report(ctx, j.Progress, func() Progress {
		n := c.events.Load()
		return Progress{Phase: PhaseReplay, Events: max(total, n), EventsDone: n, Rows: c.rows.Load(), Elapsed: time.Since(began)}
	})
	pool := pond.NewPool(1 + workers)
	defer pool.StopAndWait()
	group := pool.NewGroupContext(ctx)
	group.SubmitErr(func() error {
		defer close(c.groups)
		return c.read(group.Context())
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

// read reads again from the beginning after a lost connection: what is applied by then is not lacking any more.
func (c *catchUp) read(ctx context.Context) error {
	size := int(cmp.Or(c.job.groupSize, groupSize))
	return c.job.Retry(ctx, pg.PointList, func(tx pgx.Tx) error {
		cut, err := c.job.cut(ctx, tx)
		if err != nil {
			return err
		}
		lacks, err := c.job.lacks(ctx, tx, cut, nil)
		if err != nil {
			return err
		}
		return c.job.eventsTx(ctx, tx, func(tx pgx.Tx) error { return c.scan(ctx, tx, lacks, size) })
	})
}

func (c *catchUp) scan(ctx context.Context, tx pgx.Tx, lacks eventstore.Selection, size int) error {
	var group []projections.Raw
	for e, err := range c.job.Source.Scan(ctx, tx, lacks) {
		if err != nil {
			return err
		}
		if n := len(group); n >= size && group[n-1].AggregateID != e.AggregateID {
			if err := c.send(ctx, group); err != nil {
				return err
			}
			group = nil
		}
		group = append(group, event(&e.Raw))
	}
	return c.send(ctx, group)
}

func (c *catchUp) send(ctx context.Context, group []projections.Raw) error {
	if len(group) == 0 {
		return nil
	}
	select {
	case c.groups <- group:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// apply applies groups until there are no more. What was read may be old by then: events up to a cut that another pass has
// moved are in the tables, and a position that another pass has recorded is an error, after which the group is read anew.
func (c *catchUp) apply(ctx context.Context) error {
	j := c.job
	run := j.Projections.CatchUp()
	for {
		var group []projections.Raw
		var open bool
		select {
		case group, open = <-c.groups:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !open {
			return nil
		}
		ids, fresh := aggregatesOf(group), true
		var done Pass
		err := j.Retry(ctx, pg.PointGroup, func(tx pgx.Tx) error {
			cut, err := j.enter(ctx, tx, Built)
			if err != nil {
				return err
			}
			if !fresh {
				done, err = j.apply(ctx, tx, run, cut, ids)
				return err
			}
			fresh = false
			// moveCut looks whether the commit has come to stay.
			if _, err := tx.Exec(ctx, "set local synchronous_commit = off"); err != nil {
				return err
			}
			lacking := slices.DeleteFunc(group, func(e projections.Raw) bool { return e.Position <= cut })
			done, err = j.applyEvents(ctx, tx, run, lacking)
			return err
		})
		if err != nil {
			return fmt.Errorf("catching up version %d: %w", j.Version, err)
		}
		c.events.Add(done.Events)
		c.rows.Add(done.Rows)
	}
}

// applyRest applies what the ledger lacks as one group.
func (j *Job) applyRest(ctx context.Context, p *Pass) error {
	var done Pass
	err := j.Retry(ctx, pg.PointGroup, func(tx pgx.Tx) error {
		cut, err := j.enter(ctx, tx, Built)
		if err == nil {
			done, err = j.apply(ctx, tx, j.Projections.CatchUp(), cut, nil)
		}
		return err
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
