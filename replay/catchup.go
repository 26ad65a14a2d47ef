package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// Pass is what a catch-up did.
type Pass struct {
	Events  int64 // that the ledger lacked
	Rows    int64 // written or deleted
	Cut     int64 // the ledger's cut afterwards
	Settled bool  // false: open writers outlasted the wait and the old cut stands; Open names them
	Open    string
	Elapsed time.Duration
	// Finish: the events of the store that the lane went over, by position, and how many there were just before.
	LaneFrom, LaneTo, LaneEvents int64
	// Applying is the part of Elapsed in which events were looked for and applied.
	Applying time.Duration
}

// CatchUp applies what the ledger lacks while the application runs, and then moves the cut. Passes may run at once, in
// any number of processes: an event that two of them find is applied by one.
//
// It waits for writers at most as long as wait says; if they stay, the events are applied all the same, and only the
// ledger stays as long as it is. If another server takes over meanwhile that lacks what was settled, it settles anew.
func (j *Job) CatchUp(ctx context.Context, wait eventstore.Wait) (p Pass, err error) {
	began := time.Now()
	err = j.unmoved(func() error { return j.catchUp(ctx, wait, &p) })
	p.Elapsed = time.Since(began)
	return p, err
}

func (j *Job) catchUp(ctx context.Context, wait eventstore.Wait, p *Pass) error {
	p.Settled = false
	var before, highest int64
	err := j.Retry(ctx, pg.PointList, func(tx pgx.Tx) (err error) {
		if before, err = j.enter(ctx, tx, Built); err == nil {
			highest, err = j.highest(ctx, tx, before)
		}
		return err
	})
	if err != nil {
		return err
	}
	// First: an event that commits after the listing below and at or below this cut cannot exist.
	events, _ := j.events()
	cut, err := j.Source.Settle(ctx, events, wait)
	switch {
	case errors.Is(err, eventstore.ErrUnsettled):
		p.Open = err.Error()
	case err != nil:
		return err
	case (before > 0 || j.hasLane()) && cut.Reason != "":
		return fmt.Errorf("the migration has a cut of %d, and now none can be settled: %s", before, cut.Reason)
	case cut.Reason == "" && cut.Drawn < highest: // what comes now would be taken for what was replayed
		return fmt.Errorf("the positions of the events went back under the migration: it has replayed %d, and the last one given out is %d; type: migrate abort", highest, cut.Drawn)
	default:
		p.Settled, p.Open = true, ""
	}
	var m *mark
	if p.Settled && cut.Position > before {
		err = j.trying(ctx, func() (err error) {
			m, err = j.newMark(ctx, cut.Position)
			return err
		})
		if err != nil {
			return err
		}
		defer m.remove(ctx)
	}
	var tables []uint32
	err = j.Retry(ctx, pg.PointList, func(tx pgx.Tx) (err error) {
		if tables, err = j.tablesNow(ctx, tx); err != nil { // after the cut and before the events: what comes later is not known
			return err
		}
		return j.checkAttached(ctx, tx, tables, before)
	})
	if err != nil {
		return err
	}
	settled := time.Now()
	for lost := int64(1); lost > 0; {
		whole, err := j.applyLacking(ctx, p, cut.Position)
		if err != nil {
			return err
		}
		if p.Settled { // the lane never goes past what is settled
			done, err := j.advanceLane(ctx, cut.Position, m, func(Applied) {}, Built)
			if err != nil {
				return err
			}
			p.add(j, done)
		}
		p.Applying = time.Since(settled)
		end := func() error {
			return j.Retry(ctx, pg.PointCut, func(tx pgx.Tx) (err error) {
				if err = m.here(ctx, tx); err == nil {
					lost, err = j.moveCut(ctx, tx, p, cut.Position, tables, whole)
				}
				return err
			})
		}
		if err = end(); errors.Is(err, errUneven) {
			whole = unknown
			err = end()
		}
		if err != nil {
			return err
		}
		if lost > 0 {
			j.Log.Warn().Int64("events", lost).Msg("the server has lost what it had committed, as after a crash or a failover: applying it again")
		}
	}
	return nil
}

// add counts what the lane has got. Its events are not counted twice.
func (p *Pass) add(j *Job, done Applied) {
	if !j.HasBatches() {
		p.Events += done.Events
	}
	p.Rows += done.Rows
}

// applyLacking applies what the ledger lacks. Up to the settled cut, which is 0 if there is none, a standby may be read. whole is as
// of applyGroups.
func (j *Job) applyLacking(ctx context.Context, p *Pass, settled int64) (whole int64, err error) {
	if !j.HasBatches() {
		return unknown, nil
	}
	whole, err = j.applyGroups(ctx, p, settled)
	if _, _, unique := pg.UniqueViolation(err); unique || errors.Is(err, projections.ErrShared) {
		// A value that one aggregate freed and another took: together they fit.
		j.Log.Info().Err(err).Msg("catching up again as one group")
		return unknown, j.applyRest(ctx, p)
	}
	return whole, err
}

// errUneven is that the ledger has not as many events as there were when it was read, which does not say how many are lost.
var errUneven = errors.New("the ledger has not as many events as it should")

// moveCut ends a pass. Groups commit without waiting for the disk, and a server that takes over after another may lack even
// what was waited for. So the cut moves only over events that the ledger has, in a commit that is waited for, and with it
// all commits before it. Its server has the mark that was made when the cut was settled: one that lacks it would give out positions
// up to the cut anew. If events up to the cut are lost, it returns their number and leaves the cut. tables are those that held the
// events when the cut was settled.
//
// To count what is lost takes as long as to read it. If it is known how many events there were in one snapshot, recorded and
// lacking, then the ledger has all of them if it has as many: it has nothing else, and none twice. If not, that is errUneven.
func (j *Job) moveCut(ctx context.Context, tx pgx.Tx, p *Pass, cut int64, tables []uint32, whole int64) (lost int64, err error) {
	old, err := j.Own(ctx, tx, Built)
	if err != nil {
		return 0, err
	}
	if err := j.checkAttached(ctx, tx, tables, old); err != nil {
		return 0, err
	}
	if p.Settled && cut > old {
		if lost, err = j.lost(ctx, tx, old, cut, whole == unknown); lost > 0 || err != nil {
			return lost, err
		}
		forgotten, err := j.advance(ctx, tx, cut, tables)
		if err != nil {
			return 0, err
		}
		if whole != unknown && forgotten != whole {
			return 0, errUneven
		}
	}
	p.Cut, err = j.enter(ctx, tx, Built)
	return 0, err
}

// lost counts the events up to the new cut that are not in the tables; those that the lane lacks count as one, and those of the
// batches are counted if it says so.
func (j *Job) lost(ctx context.Context, tx pgx.Tx, old, cut int64, batches bool) (lost int64, err error) {
	lane, err := j.LookAtLane(ctx, tx)
	switch {
	case err != nil:
		return 0, err
	case lane != nil && lane.Position < cut:
		return 1, nil
	case !batches || !j.HasBatches():
		return 0, nil
	}
	lacks, err := j.lacks(ctx, tx, old, nil)
	if err != nil {
		return 0, err
	}
	lacks.UpTo = cut
	err = j.eventsTx(ctx, tx, func(events pgx.Tx) (err error) {
		lost, err = j.Source.Count(ctx, events, lacks)
		return err
	})
	return lost, err
}

// lacks selects what the ledger, which q reads, lacks: of all aggregates, or of some. A database that does not have the
// ledger is told the positions that are in it.
func (j *Job) lacks(ctx context.Context, q pg.Querier, cut int64, aggregates []projections.ID) (sel eventstore.Selection, err error) {
	sel = eventstore.Selection{After: cut, Aggregates: aggregates}
	if _, elsewhere := j.events(); elsewhere {
		sel.Known, err = j.known(ctx, q)
	} else {
		sel.Except = j.replayed()
	}
	return sel, err
}

// tables are what a session writes: those of handlers, and those of queries.
type tables struct {
	run     *projections.Run
	queries *Queries
}

func (j *Job) catchUpTables() tables {
	set := j.Projections.Parallel()
	return tables{set.CatchUp(), NewQueries(set, j.Source)}
}

// apply applies what the ledger lacks, of all aggregates or of some, read in one snapshot.
func (j *Job) apply(ctx context.Context, tx pgx.Tx, t tables, cut int64, aggregates []projections.ID) (Pass, error) {
	sel, err := j.lacks(ctx, tx, cut, aggregates)
	if err != nil {
		return Pass{}, err
	}
	if j.Projections.Parallel().OnlySQL() {
		return j.recompute(ctx, tx, t.queries, sel)
	}
	events, err := j.readAll(ctx, tx, sel)
	if err != nil {
		return Pass{}, err
	}
	return j.applyEvents(ctx, tx, t, appendAggregates(nil, events), events)
}

// applyEvents applies events of these aggregates, which come one after the other in one run of events or several, and records them before
// the rows are loaded. Recording waits for a pass that has an event of ours in flight and then fails; had it come after the load, the
// projector could find rows that this pass has already changed, and take that for an error. SQL tables may see events that are not
// recorded: the next pass computes their aggregates once more. Flush comes last, and with it the rows of totals, for which other passes
// wait.
//
// Events of parked aggregates are recorded and nothing else. One that cannot be projected is a *poison, if it is to be parked.
func (j *Job) applyEvents(ctx context.Context, tx pgx.Tx, t tables, aggregates []projections.ID, events ...[]projections.Raw) (Pass, error) {
	left, err := j.leftOut(ctx, tx, aggregates)
	if err != nil {
		return Pass{}, err
	}
	var p Pass
	if p.Events, err = j.recordAll(ctx, tx, events...); err != nil {
		return Pass{}, err
	}
	if len(left) > 0 {
		events, aggregates = slices.Clone(events), nil
		for i, run := range events {
			events[i] = slices.DeleteFunc(slices.Clone(run), func(e projections.Raw) bool { return left[e.AggregateID] })
			aggregates = appendAggregates(aggregates, events[i])
		}
	}
	p.Rows, err = t.apply(ctx, tx, aggregates, events...)
	if e, ok := j.poisonous(ctx, tx, err); ok {
		return Pass{}, &poison{[]*projections.EventError{e}}
	}
	return p, err
}

// apply applies events of these aggregates and returns how many rows were written.
func (t tables) apply(ctx context.Context, tx pgx.Tx, aggregates []projections.ID, events ...[]projections.Raw) (rows int64, err error) {
	if err := t.run.Begin(ctx, tx, aggregates); err != nil {
		return 0, err
	}
	for _, run := range events {
		for i := range run {
			if err := t.run.Apply(&run[i]); err != nil {
				return 0, err
			}
		}
	}
	computed, err := t.queries.Replace(ctx, tx, aggregates)
	if err != nil {
		return 0, err
	}
	rows, err = t.run.Flush()
	return rows + computed, err
}

// Tail counts the events that the ledger, which q reads, lacks, or the lane, if those are more. It takes no lock, so a catch-up
// that ends meanwhile may be counted in part. A job without projectors, for a status, goes by
// the bookkeeping.
func (j *Job) Tail(ctx context.Context, q pg.Querier) (tail int64, err error) {
	store := q
	if db, elsewhere := j.events(); elsewhere {
		store = db
	}
	lane, err := j.LookAtLane(ctx, q)
	if err != nil {
		return 0, err
	}
	if lane != nil {
		if tail, err = j.Source.Count(ctx, store, eventstore.Selection{After: lane.Position}); err != nil {
			return 0, err
		}
	}
	if kept, err := j.keepsLedger(ctx, q); !kept || err != nil {
		return tail, err
	}
	cut, err := j.cut(ctx, q)
	if err != nil {
		return 0, err
	}
	sel, err := j.lacks(ctx, q, cut, nil)
	if err != nil {
		return 0, err
	}
	lacking, err := j.Source.Count(ctx, store, sel)
	return max(tail, lacking), err
}

// Finish applies all that the ledger lacks in the caller's transaction, which has to own the migration (see Own), while the
// caller holds off writers. Afterwards the ledger lacks nothing. The transaction has to be READ COMMITTED: an older snapshot
// would miss events. Rehearse is for a snapshot.
func (j *Job) Finish(ctx context.Context, tx pgx.Tx, cut int64) (Pass, error) {
	began := time.Now()
	var p Pass
	tables, err := j.tablesNow(ctx, tx)
	if err == nil {
		err = j.checkAttached(ctx, tx, tables, cut)
	}
	if err == nil && j.HasBatches() {
		p, err = j.apply(ctx, tx, j.catchUpTables(), cut, nil)
	}
	if err == nil {
		err = j.finishLane(ctx, tx, &p)
	}
	if err != nil {
		return p, fmt.Errorf("catching up version %d: %w", j.Version, err)
	}
	p.Elapsed = time.Since(began)
	return p, nil
}
