package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// Lane is how far the ordered lane is.
type Lane struct {
	Position int64 `json:"position"` // every event at or below it is in the tables, and none above
	Cut      int64 `json:"cut"`      // how far it goes until the migration is built
	Events   int64 `json:"events"`   // applied
	Rows     int64 `json:"rows"`     // written
}

// laneSlice is about how many events of the lane are applied in one transaction: what a crash costs at most. Their rows are in
// memory at once.
const laneSlice = 2_000

// hasLane says whether some of the projectors are replayed in the order of the store.
func (j *Job) hasLane() bool { return len(j.Projections.Ordered()) > 0 }

// HasBatches says whether some of the projectors are replayed by aggregate. Without them, there is nothing in the ledger.
func (j *Job) HasBatches() bool { return len(j.Projections.Parallel().Projectors()) > 0 }

// InOrder applies events to ordered projectors, in the order of the store. It is for one goroutine at a time.
type InOrder struct {
	source *eventstore.Reader
	types  []string
	runs   []orderedRun
}

type orderedRun struct {
	*projections.Run
	order projections.Order
}

// NewInOrder makes the runs of the set's ordered projectors, which may be none.
func NewInOrder(set *projections.Set, source *eventstore.Reader) *InOrder {
	o := &InOrder{source: source, types: []string{}}
	for _, part := range set.Ordered() {
		o.types = append(o.types, part.Types()...)
		o.runs = append(o.runs, orderedRun{part.CatchUp(), part.Order()})
	}
	return o
}

// Applied is what was applied.
type Applied struct {
	Events, Rows int64
	Last         int64 // the position of the last event, 0 if there was none
}

// Apply applies the events of the selection, which store reads, to the tables, which tx writes; they may be one transaction. It
// needs memory for the rows of some thousand events at a time.
func (o *InOrder) Apply(ctx context.Context, tx, store pgx.Tx, sel eventstore.Selection) (Applied, error) {
	sel.ByPosition, sel.Types, sel.AllAbove = true, o.types, 1<<63-1
	var done Applied
	if len(o.runs) == 0 {
		return done, nil
	}
	for events, err := range o.source.Chunks(ctx, store, sel, laneSlice) {
		if err != nil {
			return done, err
		}
		for _, r := range o.runs {
			rows, err := r.apply(ctx, tx, events)
			if err != nil {
				return done, err
			}
			done.Rows += rows
		}
		done.Events += int64(len(events))
		done.Last = events[len(events)-1].Position
	}
	return done, nil
}

func (r orderedRun) apply(ctx context.Context, tx pgx.Tx, events []projections.Raw) (rows int64, err error) {
	var partitions []projections.ID
	if r.order == projections.ByPartition {
		seen := map[projections.ID]bool{}
		for i := range events {
			if id := events[i].Partition; !id.IsZero() && !seen[id] {
				seen[id] = true
				partitions = append(partitions, id)
			}
		}
	}
	if err := r.Begin(ctx, tx, partitions); err != nil {
		return 0, err
	}
	for i := range events {
		if err := r.Apply(&events[i]); err != nil {
			return 0, err
		}
	}
	return r.Flush()
}

// advanceLane brings the lane to the limit, or, if that is 0, to the migration's cut. Other processes may do the same: the lock of
// the lane's row makes one at a time go on, from where the one before it has come to. The limit has to be settled: a position that
// is passed is never looked at again. A standby that cancels a slice is asked for a smaller one.
func (j *Job) advanceLane(ctx context.Context, limit int64, settled *mark, told func(Applied), states ...State) (Applied, error) {
	var sum Applied
	if !j.hasLane() {
		return sum, nil
	}
	size := cmp.Or(j.groupSize, laneSlice)
	// Without an index on the positions, each statement sorts all that is left: then there is one.
	events, _ := j.events()
	var indexed bool
	var m *mark
	err := j.trying(ctx, func() (err error) {
		if indexed, err = j.Source.Indexed(ctx, events); err == nil {
			m, err = j.laneMark(ctx, limit)
		}
		return err
	})
	if err != nil {
		return sum, err
	}
	defer m.remove(ctx)
	if !indexed {
		size = 0
	}
	in := NewInOrder(j.Projections, j.Source)
	for {
		if err := j.Throttle.wait(ctx); err != nil {
			return sum, err
		}
		var done Applied
		arrived := false
		err := j.Retry(ctx, pg.PointLane, func(tx pgx.Tx) (err error) {
			upTo, err := j.enter(ctx, tx, states...)
			if err != nil {
				return err
			}
			if limit > 0 {
				upTo = limit
			}
			if m != nil {
				upTo = min(upTo, m.cut) // a catch-up may have moved the migration's
			}
			if err := errors.Join(settled.here(ctx, tx), m.here(ctx, tx)); err != nil {
				return err
			}
			done, arrived, err = j.laneSlice(ctx, tx, in, m, upTo, size)
			if canceled(err) {
				size = (size + 1) / 2
			}
			return err
		})
		if err != nil {
			return sum, fmt.Errorf("replaying version %d %w: %w", j.Version, ErrInOrder, err)
		}
		sum.Events += done.Events
		sum.Rows += done.Rows
		told(done)
		if arrived {
			return sum, nil
		}
		if j.HasBatches() {
			continue // the limit counts these events there
		}
		if err := j.Throttle.take(ctx, done.Events); err != nil {
			return sum, err
		}
	}
}

// laneMark makes the mark for the lane's way to a limit, or, if that is 0, to the migration's cut, and waits for it: nobody holds the
// lane meanwhile.
func (j *Job) laneMark(ctx context.Context, limit int64) (m *mark, err error) {
	if limit == 0 {
		if limit, err = j.cut(ctx, j.DB); err != nil {
			return nil, err
		}
	}
	if m, err = j.mark(ctx, limit); err != nil {
		return nil, err
	}
	if err := m.await(ctx); err != nil {
		m.remove(ctx)
		return nil, err
	}
	return m, nil
}

// laneSlice applies the next events up to a position, at most so many if size is not 0. A crash anywhere in it leaves the lane where
// it was.
func (j *Job) laneSlice(ctx context.Context, tx pgx.Tx, in *InOrder, m *mark, upTo, size int64) (done Applied, arrived bool, err error) {
	position, err := j.lockLane(ctx, tx)
	if err != nil || position >= upTo {
		return done, true, err
	}
	done, err = j.applyLane(ctx, tx, in, m, eventstore.Selection{After: position, UpTo: upTo, Limit: size})
	if err != nil {
		return done, false, err
	}
	to := upTo
	if size > 0 && done.Events >= size {
		to = done.Last
	}
	return done, to == upTo, j.moveLane(ctx, tx, to, done)
}

// applyLane applies a selection: of what is settled, if there is a mark.
func (j *Job) applyLane(ctx context.Context, tx pgx.Tx, in *InOrder, m *mark, sel eventstore.Selection) (done Applied, err error) {
	err = j.settled(ctx, tx, m, func(events pgx.Tx) error {
		done, err = in.Apply(ctx, tx, events, sel)
		return err
	})
	return done, err
}

// finishLane applies all that the lane lacks, while the caller holds off writers.
func (j *Job) finishLane(ctx context.Context, tx pgx.Tx, p *Pass) error {
	if !j.hasLane() {
		return nil
	}
	var err error
	if p.LaneFrom, err = j.lockLane(ctx, tx); err != nil {
		return err
	}
	var highest int64
	err = j.eventsTx(ctx, tx, func(events pgx.Tx) (err error) {
		if highest, err = j.Source.Highest(ctx, events); err == nil { // also of events that nobody handles
			p.LaneEvents, err = j.Source.Count(ctx, events, eventstore.Selection{After: p.LaneFrom, UpTo: highest})
		}
		return err
	})
	if err != nil {
		return err
	}
	done, err := j.applyLane(ctx, tx, NewInOrder(j.Projections, j.Source), nil, eventstore.Selection{After: p.LaneFrom})
	if err != nil {
		return err
	}
	p.LaneTo = max(p.LaneFrom, highest, done.Last)
	p.add(j, done)
	return j.moveLane(ctx, tx, p.LaneTo, done)
}

// lockLane locks the lane's row until the transaction ends, and returns the position.
func (l Ledger) lockLane(ctx context.Context, tx pgx.Tx) (position int64, err error) {
	err = tx.QueryRow(ctx, l.sql("select position from %SCHEMA%.projector_lanes where migration_id = $1 for update"), l.Migration).Scan(&position)
	if err != nil {
		return 0, fmt.Errorf("locking the lane of migration %d: %w", l.Migration, err)
	}
	return position, nil
}

func (j *Job) moveLane(ctx context.Context, tx pgx.Tx, position int64, done Applied) error {
	_, err := tx.Exec(ctx, j.sql(`
		update %SCHEMA%.projector_lanes
		set position = $2, events = events + $3, rows = rows + $4,
			worker = `+thisSession+`
		where migration_id = $1`), j.Migration, position, done.Events, done.Rows, j.Host)
	if err != nil {
		return fmt.Errorf("moving the lane to %d: %w", position, err)
	}
	return nil
}

// keepsLedger says whether the migration replays projectors by aggregate, whose events are in the ledger.
func (j *Job) keepsLedger(ctx context.Context, q pg.Querier) (kept bool, err error) {
	if j.Projections != nil {
		return j.HasBatches(), nil
	}
	err = q.QueryRow(ctx, j.sql(`
		select takes_back is not null or exists (select from %SCHEMA%.projector_batches b where b.migration_id = m.id and b.phase = $2)
		from %SCHEMA%.projector_migrations m
		where id = $1`), j.Migration, int(PhaseReplay)).Scan(&kept)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, j.gone()
	case err != nil:
		return false, fmt.Errorf("looking for batches: %w", err)
	}
	return kept, nil
}

// LookAtLane reads how far the lane is; nil if the migration has none.
func (l Ledger) LookAtLane(ctx context.Context, q pg.Querier) (*Lane, error) {
	var lane Lane
	err := q.QueryRow(ctx, l.sql(`
		select l.position, m.cut, l.events, l.rows
		from %SCHEMA%.projector_lanes l join %SCHEMA%.projector_migrations m on m.id = l.migration_id
		where m.id = $1`), pg.Once, l.Migration).Scan(&lane.Position, &lane.Cut, &lane.Events, &lane.Rows)
	switch {
	case errors.Is(err, pgx.ErrNoRows), pg.IsUndefined(err): // the bookkeeping of an older Projector has no lanes
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the lane of migration %d: %w", l.Migration, err)
	}
	return &lane, nil
}
