package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Run applies stored events to the tables of a Set: Begin, Apply for each event, Flush, and again. It keeps its memory from
// batch to batch. It is for one goroutine at a time.
type Run struct {
	set      *Set
	order    Order
	loads    bool // a catch-up
	parts    bool // a rebuild whose totals go to side tables
	leaves   bool // totals alone
	stores   []*Store
	tables   []state // of all stores, in the order in which they are written
	appliers map[string]applier

	ctx      context.Context
	conn     *pgx.Conn
	broken   error // why there is nothing to do but Begin
	current  ID    // zero: none yet
	text     string
	scope    int   // the current aggregate's place in the batch
	position int64 // of the current event
	applied  uint
	stored   int64 // rows of the batch
	spent    Spent

	// A batch of a catch-up, as long as its tables may be partly loaded; see partial.go.
	partial bool
	history []applied
	taken   bool // errTaken was returned to a handler

	// A batch by position; see lookup.go. It has a history, too.
	gathering bool // errMissing is returned for what is not loaded
	missed    bool // it was

	aggregates places
	ids        []byte // of the aggregates, as a parameter; nil: not encoded yet

	keeps bool // rows are neither loaded nor stored: see Memory
}

var (
	errNotBegun = errors.New("projections: a run has to Begin before it applies events")
	errFlushed  = errors.New("projections: the run has flushed: Begin the next batch")
	errMixed    = errors.New("projections: the projectors of a run have one order: see Set.Parallel and Set.Ordered")
)

// Rebuild makes a run into empty tables. Events have to come aggregate by aggregate, each in sequence: when the next
// aggregate begins, the rows of the last one are encoded and forgotten. COPY stores them: when there are some megabytes, if
// the connection is not busy with a result then, and else in Flush.
//
// Rows of Totals are added to their tables, so no two rebuilds should be at work at the same time; see RebuildPartial.
//
// The set has to be one of projectors with the order ByAggregate, or ByPartition, where partitions take the place of aggregates.
// For one with the order ByPosition, it is CatchUp.
func (s *Set) Rebuild() *Run { return s.start(&Run{loads: s.Order() == ByPosition}) }

// RebuildPartial is Rebuild for any number of runs at the same time, each with some of the aggregates: rows of Totals go
// to side tables, which have to be merged when all are done; see TotalsTarget.
func (s *Set) RebuildPartial() *Run { return s.start(&Run{parts: true}) }

// CatchUp makes a run on tables that have rows. Events have to come in sequence within their aggregate; aggregates may
// take turns. A table is read when a handler first touches it in a batch, with one query for the rows of all aggregates
// of the batch, so the connection must not be busy with a result while Apply runs. The events have to stay as they are
// until Flush, which stores what has changed: a handler may be called again with an event of the batch.
//
// The projectors of the set have to have one order; see Ordered. ByPartition, partitions take the place of aggregates.
// ByPosition, events come in that order, the aggregates do not matter, and Flush is what applies the events.
func (s *Set) CatchUp() *Run { return s.start(&Run{loads: true}) }

func (s *Set) start(r *Run) *Run {
	r.set, r.order, r.broken, r.appliers = s, s.Order(), errNotBegun, map[string]applier{}
	var totals []state
	for _, p := range s.projectors {
		store := &Store{run: r, projector: p}
		for _, t := range p.Tables {
			rows, ok := t.(rowsTable)
			if !ok {
				continue
			}
			state := rows.open(store)
			target := state.base()
			target.relation, target.name = s.relation(t.TableName())
			if _, ok := t.(accumulating); ok {
				totals = append(totals, state)
				if r.parts {
					target.relation, target.name = s.relation(partialPrefix + t.TableName())
				}
			} else {
				r.tables = append(r.tables, state)
			}
			store.models = append(store.models, rows.shape())
			store.states = append(store.states, state)
		}
		r.stores = append(r.stores, store)
	}
	// Other transactions wait for rows of totals until this one ends: so they come last, and in an order that is the same
	// for all sets.
	slices.SortFunc(totals, func(a, b state) int { return strings.Compare(a.base().relation, b.base().relation) })
	r.tables = append(r.tables, totals...)
	for name, b := range s.bindings {
		r.appliers[name] = b.start(r)
	}
	return r
}

// Begin starts a batch in tx, and forgets what the last one left. aggregates are those of the events to come; a rebuild
// does not need them. It compares the tables with the models, and its error names every column that does not fit. It locks them
// as a writer does, in ROW EXCLUSIVE mode, so that they stay as they are until the transaction ends. The context holds until Flush.
func (r *Run) Begin(ctx context.Context, tx pgx.Tx, aggregates []ID) error {
	return r.begin(ctx, tx.Conn(), aggregates, r.stores, true)
}

func (r *Run) begin(ctx context.Context, conn *pgx.Conn, aggregates []ID, stores []*Store, locks bool) error {
	if r.set.split != nil {
		return errMixed
	}
	r.end(errNotBegun)
	if status := conn.PgConn().TxStatus(); status != 'T' {
		return fmt.Errorf("projections: the connection is not in a transaction that can go on (status %c)", status)
	}
	var relations []string
	for t := range targets(stores) {
		relations = append(relations, t.relation)
	}
	shapes, err := readCatalog(ctx, conn, relations, locks)
	if err != nil {
		return err
	}
	var errs []error
	i := 0
	for t := range targets(stores) {
		if t.plan == nil || t.plan.conn != conn || !slices.Equal(t.plan.shape, shapes[i]) {
			var err error
			t.plan, err = newPlan(t.model, t.name, conn, shapes[i])
			if err == nil && t.check != nil {
				err = t.check(ctx, conn)
			}
			errs = append(errs, err)
		}
		i++
	}
	if err := errors.Join(errs...); err != nil {
		for t := range targets(stores) {
			t.plan = nil // it may be half of one
		}
		return err
	}
	r.ctx, r.conn, r.broken = ctx, conn, nil
	r.partial = r.loads && r.order != ByPosition
	if !r.loads {
		return nil
	}
	r.aggregates.set(aggregates)
	return nil
}

// end forgets the batch.
func (r *Run) end(next error) {
	for _, t := range r.tables {
		t.reset()
	}
	r.ctx, r.conn, r.broken = nil, nil, next
	r.current, r.text, r.scope, r.stored, r.position = ID{}, "", 0, 0, 0
	r.partial, r.taken, r.gathering, r.missed = false, false, false, false
	r.forgetHistory()
	r.aggregates.forget()
	r.ids = nil
}

func targets(stores []*Store) func(yield func(*target) bool) {
	return func(yield func(*target) bool) {
		for _, s := range stores {
			for _, t := range s.states {
				if !yield(t.base()) {
					return
				}
			}
		}
	}
}

// Apply applies one event with all handlers of its payload type, projector by projector; an event that nobody handles is
// skipped. What handlers and decoders report comes as an *EventError. After an error the run can only Begin again.
func (r *Run) Apply(e *Raw) error {
	if r.broken != nil {
		return r.broken
	}
	a, ok := r.appliers[string(e.Type)]
	if !ok {
		return nil
	}
	return r.take(applied{applier: a, raw: e})
}

// take applies the event, or keeps it until Flush.
func (r *Run) take(a applied) error {
	switch {
	case r.order == ByPosition:
		r.history = append(r.history, a)
		return nil
	case r.partial:
		return r.failing(r.applyPartial(a))
	}
	return r.failing(r.apply(a))
}

// sampled is how many events there are for each whose decoding is timed: a look at the clock costs as much as a tenth of an
// event.
const sampled = 64

// Spent is where the time of a run went, besides its handlers.
type Spent struct {
	Decode time.Duration // estimated from a sample
	Store  time.Duration // in the database
}

// Spent returns the sums since it was last called.
func (r *Run) Spent() Spent {
	s := r.spent
	r.spent = Spent{}
	return s
}

// enter makes an aggregate the current one.
func (r *Run) enter(id ID) error {
	if id.IsZero() {
		return errors.New("projections: an event without an aggregate id")
	}
	if r.loads && r.order != ByPosition {
		place, ok := r.aggregates.find(id, r.scope)
		if !ok && r.keeps {
			place, ok = r.aggregates.add(id), true
		}
		if !ok {
			return fmt.Errorf("projections: aggregate %s is not among those that the batch began with", id)
		}
		r.scope = place
	}
	for _, t := range r.tables {
		if r.loads {
			t.enter()
		} else if err := t.spill(); err != nil {
			return err
		}
	}
	r.current, r.text = id, ""
	if !r.loads && r.spilled() >= mostSpilled && !r.conn.PgConn().IsBusy() {
		return r.store()
	}
	return nil
}

// mostSpilled is how many bytes of rows a rebuild collects before it stores them.
const mostSpilled = 4 << 20

// spilled returns how many bytes of rows are collected, about.
func (r *Run) spilled() (bytes int) {
	for _, t := range r.tables {
		bytes += t.base().inserts.last * chunkSize
	}
	return bytes
}

// store sends what is collected to the database. Where a unique index may refuse a row, it does so in a savepoint: after a
// violation the transaction can go on.
func (r *Run) store() error {
	began := time.Now()
	defer func() { r.spent.Store += time.Since(began) }()
	if !slices.ContainsFunc(r.tables, func(t state) bool { return t.base().mayBeRefused() }) {
		return r.write()
	}
	if err := r.exec("savepoint projector_store"); err != nil {
		return err
	}
	err := r.write()
	if err == nil {
		return r.exec("release savepoint projector_store")
	}
	if violationOf(err) == nil {
		return err
	}
	if _, err := r.conn.PgConn().Exec(r.ctx, "rollback to savepoint projector_store; release savepoint projector_store").ReadAll(); err != nil {
		return err
	}
	if taken, ok := errors.AsType[*takenError](err); ok {
		return taken.resolve(r.ctx, r.conn)
	}
	return err
}

func (r *Run) write() error {
	for _, t := range r.tables {
		n, err := t.write(r.ctx, r.conn)
		if err != nil {
			return err
		}
		r.stored += n
		t.base().reset()
	}
	return nil
}

// Flush stores the rows and returns how many were inserted, updated and deleted. The run can then Begin again; the
// transaction is the caller's to commit.
func (r *Run) Flush() (rows int64, err error) {
	if r.broken != nil {
		return 0, r.broken
	}
	defer func() {
		if err != nil {
			r.end(err)
		} else {
			r.end(errFlushed)
		}
	}()
	switch {
	case r.order == ByPosition:
		return r.flushByPosition()
	case r.partial:
		return r.flushPartial()
	}
	return r.flush()
}

// LeaveTotals makes the run leave accumulating tables as they are, whatever handlers add: for events that are in them already.
func (r *Run) LeaveTotals() { r.leaves = true }

// Forget deletes all rows of the aggregates that the batch began with, instead of Apply and Flush, and returns their number.
// Applying all events of one of them makes its rows anew. Accumulating tables cannot forget: that is ErrTotals, unless they
// are left.
func (r *Run) Forget() (rows int64, err error) {
	if r.broken != nil {
		return 0, r.broken
	}
	defer r.end(errFlushed)
	for _, s := range r.stores {
		for _, t := range s.states {
			n, err := t.forget()
			if err != nil {
				return rows, err
			}
			rows += n
		}
	}
	return rows, nil
}

func (r *Run) flush() (int64, error) {
	for _, t := range r.tables {
		if err := t.collect(); err != nil {
			return 0, err
		}
	}
	err := r.store()
	return r.stored, err
}

// fail breaks the run: even a handler that drops the error cannot go on with half of the rows.
func (r *Run) fail(err error) error {
	if r.broken == nil {
		r.broken = err
	}
	return err
}

// failing is fail, for an error that may be nil.
func (r *Run) failing(err error) error {
	if err == nil {
		return nil
	}
	return r.fail(err)
}

func (r *Run) aggregateText() string {
	if r.text == "" {
		r.text = r.current.String()
	}
	return r.text
}
