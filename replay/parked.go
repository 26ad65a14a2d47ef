package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// OnError says what an event does that cannot be projected.
type OnError string

// The choices.
const (
	Stop OnError = "stop" // it ends the work
	Park OnError = "park" // its aggregate is left out of the tables
)

// usualParked is how many aggregates may be parked by default.
const usualParked = 100

// Parked is an aggregate that is left out of the tables, and the event on which it failed.
type Parked struct {
	Aggregate string    `json:"aggregate_id"`
	Position  int64     `json:"position"`
	Sequence  int64     `json:"sequence"`
	Type      string    `json:"event_type"`
	Projector string    `json:"projector"` // empty: the payload could not be decoded
	Error     string    `json:"error"`
	At        time.Time `json:"parked_at"` // or since when it fails as it does
}

// poison is the error of a transaction that met events which cannot be projected, of different aggregates. Nothing is left of
// the transaction; when they are parked, it can begin again.
type poison struct{ events []*projections.EventError }

func (p *poison) Error() string { return p.events[0].Error() }
func (p *poison) Unwrap() error { return p.events[0] }

// poisonous returns the event that err is about, if its aggregate is to be parked for it. An error that the database has a
// part in is none of the event's: then the transaction is broken.
func (j *Job) poisonous(ctx context.Context, tx pgx.Tx, err error) (e *projections.EventError, ok bool) {
	if e, ok = errors.AsType[*projections.EventError](err); !ok || j.OnError != Park || pg.IsConnectionLost(err) {
		return nil, false
	}
	conn := tx.Conn().PgConn()
	return e, ctx.Err() == nil && !conn.IsClosed() && conn.TxStatus() == 'T'
}

func (j *Job) mostParked() int { return cmp.Or(j.MaxParked, usualParked) }

// leftOut are aggregates that a transaction leaves out, since they are parked or have just failed.
type leftOut map[projections.ID]bool

// has costs nothing where nothing is parked, as a rule.
func (l leftOut) has(id projections.ID) bool { return len(l) > 0 && l[id] }

func (l leftOut) ids() (ids []projections.ID) {
	for id := range l {
		ids = append(ids, id)
	}
	return ids
}

// leftOut reads which of these aggregates are parked, and keeps them so until the transaction ends: whoever replays one of
// them waits for us, and we for him. It comes before the ledger is written, which Retry does in the same order.
func (j *Job) leftOut(ctx context.Context, tx pgx.Tx, aggregates []projections.ID) (leftOut, error) {
	var any bool
	err := tx.QueryRow(ctx, j.sql("select exists (select from %SCHEMA%.projector_parked_events where migration_id = $1)"), j.Migration).Scan(&any)
	if err != nil {
		return nil, fmt.Errorf("reading the parked aggregates: %w", err)
	}
	if !any { // as a rule; whoever parks one of them now finds in the ledger what we record
		return nil, nil
	}
	ids := make([]string, len(aggregates))
	for i, id := range aggregates {
		ids[i] = id.String()
	}
	rows, err := tx.Query(ctx, j.leftOutQuery("and aggregate_id = any ($2)"), pg.Once, j.Migration, ids)
	if err != nil {
		return nil, fmt.Errorf("reading the parked aggregates: %w", err)
	}
	return j.collectLeftOut(rows)
}

// leftOutQuery yields the ids of those of which a condition holds.
func (j *Job) leftOutQuery(condition string) string {
	return j.sql("select aggregate_id from %SCHEMA%.projector_parked_events where migration_id = $1 " + condition + " for share")
}

func (j *Job) collectLeftOut(rows pgx.Rows) (leftOut, error) {
	left := leftOut{}
	var text string
	_, err := pgx.ForEachRow(rows, []any{&text}, func() error {
		id, err := j.aggregate(text)
		left[id] = true
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the parked aggregates: %w", err)
	}
	return left, nil
}

// aggregate reads the id of an aggregate, which in a store of text ids can be empty.
func (j *Job) aggregate(text string) (projections.ID, error) {
	if text == "" {
		return projections.Text(""), nil
	}
	return j.Source.ParseID(text)
}

// parkBatch parks aggregates of a batch that was rolled back for them. Whoever works on the batch meanwhile is waited for; if
// he has finished it, its rows are in the tables and nothing is parked.
func (j *Job) parkBatch(ctx context.Context, b batch, p *poison) error {
	return j.Retry(ctx, pg.PointPark, func(tx pgx.Tx) error {
		if _, err := j.enter(ctx, tx, Building, Built); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, j.sql(`
			select from %SCHEMA%.projector_batches where migration_id = $1 and number = $2 and done_at is null for update`), j.Migration, b.number)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return j.writeParked(ctx, tx, p.events)
	})
}

// parking runs fn, which works on filled tables, again as long as it fails for an aggregate that can be parked.
func (j *Job) parking(ctx context.Context, t tables, fn func() error) error {
	for {
		err := fn()
		p, ok := errors.AsType[*poison](err)
		if !ok {
			return err
		}
		if err := j.park(ctx, t, p); err != nil {
			return err
		}
	}
}

// park parks the aggregate and removes its rows, if it has any. What the ledger lacks of it is recorded, as by whoever applies
// it: so another pass that is about to do so waits for us or makes us begin again, and then finds it parked.
func (j *Job) park(ctx context.Context, t tables, p *poison) error {
	aggregates := []projections.ID{p.events[0].AggregateID}
	err := j.Retry(ctx, pg.PointPark, func(tx pgx.Tx) error {
		cut, err := j.enter(ctx, tx, Built, Building)
		if err != nil {
			return err
		}
		left, err := j.leftOut(ctx, tx, aggregates)
		if err != nil || len(left) > 0 {
			return err
		}
		lacking, err := j.readLacking(ctx, tx, cut, aggregates)
		if err != nil || len(lacking) == 0 { // another pass could project them
			return err
		}
		if _, err := j.recordAll(ctx, tx, lacking); err != nil {
			return err
		}
		if err := t.forget(ctx, tx, aggregates); err != nil {
			return fmt.Errorf("parking aggregate %s: %w; it failed since %w", aggregates[0], err, p)
		}
		return j.writeParked(ctx, tx, p.events[:1])
	})
	if err == nil {
		j.Log.Warn().Err(p).Msg("the aggregate is parked")
	}
	return err
}

// forget removes the rows of these aggregates from all tables.
func (t tables) forget(ctx context.Context, tx pgx.Tx, aggregates []projections.ID) error {
	if err := t.run.Begin(ctx, tx, aggregates); err != nil {
		return err
	}
	if _, err := t.run.Forget(); err != nil {
		return err
	}
	_, err := t.queries.Forget(ctx, tx, aggregates)
	return err
}

// writeParked adds to the parked aggregates. So many that the code is to blame, and not an event, are an error.
func (j *Job) writeParked(ctx context.Context, tx pgx.Tx, events []*projections.EventError) error {
	insert := &pgx.Batch{}
	// One at a time, so that each counts what the others have parked. Work that holds the row FOR KEY SHARE goes on.
	insert.Queue(j.sql("select from %SCHEMA%.projector_migrations where id = $1 for no key update"), j.Migration)
	for _, e := range events {
		insert.Queue(j.sql(`
			insert into %SCHEMA%.projector_parked_events (migration_id, aggregate_id, position, sequence, event_type, projector, error)
			values ($1, $2, $3, $4, $5, $6, $7)
			on conflict do nothing`), j.Migration, e.AggregateID.String(), e.Position, e.Sequence, e.Type, e.Projector, pg.Storable(e.Err.Error()))
	}
	if err := tx.SendBatch(ctx, insert).Close(); err != nil {
		return fmt.Errorf("parking %d aggregates: %w", len(events), err)
	}
	var all int
	err := tx.QueryRow(ctx, j.sql("select count(*) from %SCHEMA%.projector_parked_events where migration_id = $1"), j.Migration).Scan(&all)
	if err != nil {
		return fmt.Errorf("counting the parked aggregates: %w", err)
	}
	if most := j.mostParked(); all > most {
		return fmt.Errorf("%w: more than %d, which points to the code and not to an event; mend it, or raise --max-parked if so many are to be left out; the last: %w",
			ErrMostParked, most, events[len(events)-1])
	}
	return nil
}

// readAll reads a selection in one statement.
func (j *Job) readAll(ctx context.Context, tx pgx.Tx, sel eventstore.Selection) (events []projections.Raw, err error) {
	err = j.eventsTx(ctx, tx, func(tx pgx.Tx) error {
		for e, err := range j.Source.Events(ctx, tx, sel) {
			if err != nil {
				return err
			}
			events = append(events, e.Clone())
		}
		return nil
	})
	return events, err
}

// readLacking reads what the ledger lacks of these aggregates, or of all if they are nil.
func (j *Job) readLacking(ctx context.Context, tx pgx.Tx, cut int64, aggregates []projections.ID) ([]projections.Raw, error) {
	sel, err := j.lacks(ctx, tx, cut, aggregates)
	if err != nil {
		return nil, err
	}
	return j.readAll(ctx, tx, sel)
}

// recordAll records events, which come in one run or several, and returns their number.
func (j *Job) recordAll(ctx context.Context, tx pgx.Tx, events ...[]projections.Raw) (n int64, err error) {
	for _, run := range events {
		n += int64(len(run))
	}
	found := j.entries(int(n))
	for _, run := range events {
		for i := range run {
			found.add(&run[i])
		}
	}
	return n, j.record(ctx, tx, found)
}
