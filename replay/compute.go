package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// compute has PostgreSQL do all the work of the store's batches: for sets of SQL tables alone, whose events need no reader.
func (j *Job) compute(ctx context.Context, m *meter) error {
	passes, err := j.newPasses(ctx, m.left())
	if err != nil {
		return err
	}
	passes.size = 1 // each batch is a statement of its own
	return j.parallel(ctx, func(ctx context.Context) error {
		c := &computer{job: j, passes: passes, meter: m, queries: NewQueries(j.Projections.Parallel(), j.Source)}
		return c.run(ctx)
	})
}

// computer works through batches, one at a time.
type computer struct {
	job     *Job
	passes  *passes
	meter   *meter
	queries *Queries
	owed    int64 // events of the last batch, which are waited for before the next: how many there are is known afterwards
}

// run computes until all batches of the store are done, whoever does them.
func (c *computer) run(ctx context.Context) error {
	t := trouble{}
	for {
		if err := c.job.Throttle.wait(ctx); err != nil {
			return err
		}
		run, err := c.passes.next(ctx)
		if err != nil || run == nil {
			return err
		}
		if err := c.job.Throttle.take(ctx, c.owed); err != nil {
			return err
		}
		c.owed = 0
		b := run[0]
		if c.job.Throttle.held() { // since we began to wait for it
			c.passes.release(b)
			continue
		}
		err = c.batch(ctx, b)
		if errors.Is(err, errMet) {
			c.passes.meet(b)
			continue
		}
		c.passes.release(b)
		switch {
		case err == nil:
			t = trouble{}
		case !t.again(ctx, c.job, err):
			return err
		}
	}
}

// batch claims and computes one batch. A crash anywhere in it leaves the batch pending and nothing of its rows.
func (c *computer) batch(ctx context.Context, b batch) error {
	j := c.job
	began := time.Now()
	var events, rows int64
	err := j.work()(ctx, session(j.DB, stuck), pg.PointBatch, func(tx pgx.Tx) error {
		cut, err := j.enter(ctx, tx, Building, Built) // built: by another process, which found all batches done
		if err != nil {
			return err
		}
		ours, err := j.claim(ctx, tx, b)
		if err != nil {
			return err
		}
		if !ours {
			return errMet
		}
		if events, rows, err = c.fill(ctx, tx, b, cut); err != nil {
			return b.failed("replaying", j.Version, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.meter.spent(&c.meter.times.write, began)
	c.meter.read(events)
	c.meter.batchDone(b, events, rows)
	c.owed = events
	return nil
}

// fill records what is above the cut, and then computes the rows.
func (c *computer) fill(ctx context.Context, tx pgx.Tx, b batch, cut int64) (events, rows int64, err error) {
	sel := eventstore.Selection{Range: b.rng}
	above := sel
	above.After = cut
	if _, err := c.job.recordLacking(ctx, tx, above); err != nil {
		return 0, 0, err
	}
	if rows, err = c.queries.Fill(ctx, tx, sel); err != nil {
		return 0, 0, err
	}
	if events, err = c.job.Source.Count(ctx, tx, sel); err != nil {
		return 0, 0, err
	}
	return events, rows, c.job.finish(ctx, tx, b, events, rows)
}

// recompute is apply for sets of SQL tables alone. It records first: where statements have snapshots of their own, what is
// recorded is seen by those that follow.
func (j *Job) recompute(ctx context.Context, tx pgx.Tx, queries *Queries, sel eventstore.Selection) (Pass, error) {
	lacking, err := j.recordLacking(ctx, tx, sel)
	if err != nil {
		return Pass{}, err
	}
	var p Pass
	ids := make([]projections.ID, len(lacking))
	for i, a := range lacking {
		ids[i] = a.ID
		p.Events += a.Events
	}
	p.Rows, err = queries.Replace(ctx, tx, ids)
	return p, err
}

// recordLacking records the positions of the selected events, and returns their aggregates. It is one statement, and so the
// two are of one snapshot. Like record, it fails if another pass has recorded one of them.
func (j *Job) recordLacking(ctx context.Context, tx pgx.Tx, sel eventstore.Selection) ([]eventstore.Aggregate, error) {
	events, args := j.Source.SQL(sel)
	aggregate := "''"
	if j.Source.SharedPositions() {
		aggregate = "aggregate_id::text"
	}
	rows, err := tx.Query(ctx, j.sql(`
		with lacking as materialized (
			select position, aggregate_id from (`+events+`) e
		), recorded as (
			insert into %SCHEMA%.projector_replayed_ids (migration_id, position, aggregate_id)
			select distinct `+strconv.FormatInt(j.Migration, 10)+`, position, `+aggregate+` from lacking order by 2, 3
		)
		select aggregate_id::text, count(*) from lacking group by aggregate_id order by aggregate_id`), args...)
	if err == nil {
		var list []eventstore.Aggregate
		if list, err = j.Source.CollectAggregates(rows); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("recording events as replayed: %w", err)
}
