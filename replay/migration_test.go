package replay_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// migration is one that is under way, step by step.
type migration struct {
	*schedule
	ctx    context.Context
	own    process
	suffix string   // of the tables after the cutover
	known  []stored // committed events at the end of the step before
}

func (w *world) migration(ctx context.Context, own, rivals process, count func(string)) *migration {
	s := &schedule{world: w, phase: phaseBegin, count: count, rivals: rivals}
	return &migration{schedule: s, ctx: withHook(ctx, s.hook), own: own, suffix: "_1"}
}

// step runs a step and checks the ledger.
func (m *migration) step(phase string, st step, fn func() error) error {
	m.phase, m.patient, m.left, m.gap = phase, st.Patient, st.Actions, 0
	if len(m.left) > 0 {
		m.gap = m.left[0].Gap
	}
	err := fn()
	err = errors.Join(err, m.err, m.join())
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", phase, err)
	}
	return nil
}

func (m *migration) begin() error   { return m.own.begin(m.ctx, m.patient) }
func (m *migration) run() error     { return m.own.run(m.ctx) }
func (m *migration) catchUp() error { return m.own.catchUp(m.ctx, m.patient) }

// cutover tries until it has its locks. After the first try the writers end.
func (m *migration) cutover() error {
	for {
		err := m.own.cutover(m.ctx)
		switch {
		case pg.IsLockTimeout(err):
			m.count("cutovers that give way")
			m.mu.Lock()
			m.keep(m.finishAll(context.WithoutCancel(m.ctx)))
			m.mu.Unlock()
			if err := errors.Join(m.err, m.join()); err != nil {
				return err
			}
		case m.world.parks && isPoison(err):
			m.count("cutovers that meet poison")
			if err := m.own.catchUp(m.ctx, false); err != nil && !pg.IsConnectionLost(err) {
				return err
			}
		case !pg.IsConnectionLost(err):
			return err
		}
	}
}

func isPoison(err error) bool {
	_, ok := errors.AsType[*projections.EventError](err)
	return ok
}

// stored is a committed event.
type stored struct {
	Position, Sequence int64
	Aggregate, Type    string
	Amount             int64
	Poison             bool
}

// look reads the committed events.
func (m *migration) look() ([]stored, error) {
	rows, _ := m.world.admin.Query(context.Background(), `
		select coalesce(position, 1), sequence_number, aggregate_id, event_type, (data->>'amount')::bigint, coalesce((data->>'poison')::bool, false)
		from events
		order by aggregate_id, sequence_number`)
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	m.known = events
	return events, err
}

// check holds ledger, tables and events against each other, when no transaction of the migration is open.
func (m *migration) check() error {
	ctx := context.Background()
	before := m.known
	events, err := m.look()
	if err != nil {
		return err
	}
	var cut int64
	var ids []int64
	var aggregates []string // empty ones if positions are unique
	err = m.world.admin.QueryRow(ctx, `
		select cut, array(select position from projector_replayed_ids where migration_id = id order by position, aggregate_id),
			array(select aggregate_id from projector_replayed_ids where migration_id = id order by position, aggregate_id)
		from projector_migrations`).Scan(&cut, &ids, &aggregates)
	if err != nil && (m.phase != phaseBegin || !errors.Is(err, pgx.ErrNoRows)) {
		return err
	}
	if len(ids) > 0 && ids[0] <= cut {
		return fmt.Errorf("the ledger has id %d at or below its cut %d", ids[0], cut)
	}
	for _, wr := range m.world.writers {
		for _, position := range slices.Concat(wr.pending, wr.drawn) {
			if position <= cut {
				return fmt.Errorf("an open writer has position %d and the cut is %d", position, cut)
			}
		}
	}
	if m.phase == phaseBegin {
		return nil // there is nothing in the tables yet
	}
	if m.world.tables.hasLane() {
		if err := m.checkLane(ctx, events, before, cut); err != nil || m.world.tables == inLane {
			return err
		}
	}
	if m.phase == phaseCutover {
		before = m.known // and nothing was committed while writers were held off
	}
	holds := func(e stored) bool {
		for i, position := range ids {
			if position == e.Position && (m.world.kind != shared || aggregates[i] == e.Aggregate) {
				return true
			}
		}
		return e.Position <= cut
	}
	for _, e := range before {
		if !holds(e) {
			return fmt.Errorf("the ledger lacks %v, which was committed before the step: cut %d, ids %v", e, cut, ids)
		}
	}
	rows, _ := m.world.admin.Query(ctx, "select aggregate_id from projector_parked_events")
	parked, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(parked) > 0 {
		m.count("parked after " + m.phase)
	}
	for _, e := range events {
		if e.Poison && holds(e) && !slices.Contains(parked, e.Aggregate) {
			return fmt.Errorf("the ledger has %v, and %s is not parked", e, e.Aggregate)
		}
	}
	events = slices.DeleteFunc(events, func(e stored) bool { return slices.Contains(parked, e.Aggregate) })
	suffix := "_1"
	if m.phase == phaseCutover {
		suffix = m.suffix
	}
	for _, table := range m.world.tables.names() {
		rows, _ := m.world.admin.Query(ctx, "select format('%s: %s,%s', id, total, seen) from "+table+suffix+" order by id")
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		want := fold(events, holds)
		if m.mayBeAhead(table) {
			got = upTo(got, want, fold(events, func(stored) bool { return true }))
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("cut %d, ids %v, events %v:\n%s\ngot  %q\nwant %q", cut, ids, events, table, got, want)
		}
	}
	if !m.world.tables.adds() {
		return nil
	}
	rows, _ = m.world.admin.Query(ctx, "select format('%s: %s %s %s', name, events, total, longest) from halves"+suffix+" order by name")
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if want := foldHalves(events, holds); err != nil || !slices.Equal(got, want) {
		return fmt.Errorf("cut %d, ids %v, events %v:\nhalves\ngot  %q\nwant %q; %w", cut, ids, events, got, want, err)
	}
	return nil
}

// foldHalves is fold for the rows that several aggregates add to.
func foldHalves(events []stored, holds func(e stored) bool) (rows []string) {
	byName := map[string]*half{}
	for _, e := range events {
		if e.Type != "Added" || !holds(e) {
			continue
		}
		name := halfOf(e.Aggregate)
		if byName[name] == nil {
			byName[name] = &half{}
		}
		h := byName[name]
		h.Events, h.Total, h.Longest = h.Events+1, h.Total+e.Amount, max(h.Longest, e.Sequence)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		h := byName[name]
		rows = append(rows, fmt.Sprintf("%s: %d %d %d", name, h.Events, h.Total, h.Longest))
	}
	return rows
}

// mayBeAhead says whether the table may hold events that the ledger lacks: where handlers' events come from a reader's
// snapshot, a query runs in a later one. After the cutover nothing is lacking.
func (m *migration) mayBeAhead(table string) bool {
	return table == "twins" && m.phase != phaseCutover
}

// upTo replaces rows that are ahead of what is wanted, and not further than all events go, by those wanted. A row that is
// ahead begins with what is wanted, and all events begin with it: an aggregate's events commit in their order.
func upTo(got, want, all []string) (rows []string) {
	seen := func(rows []string, id string) string {
		for _, r := range rows {
			if other, rest, _ := strings.Cut(r, ": "); other == id {
				_, events, _ := strings.Cut(rest, ",")
				return events + " "
			}
		}
		return ""
	}
	find := func(rows []string, id string) string {
		for _, r := range rows {
			if strings.HasPrefix(r, id+": ") {
				return r
			}
		}
		return ""
	}
	for _, r := range got {
		id, _, _ := strings.Cut(r, ": ")
		mine, least, most := seen(got, id), seen(want, id), seen(all, id)
		if r == find(want, id) || !strings.HasPrefix(mine, least) || !strings.HasPrefix(most, mine) {
			rows = append(rows, r)
		} else if w := find(want, id); w != "" {
			rows = append(rows, w)
		}
	}
	return rows
}

// fold is the oracle: the rows that the events leave, of those that the ledger holds.
func fold(events []stored, holds func(e stored) bool) []string {
	var rows []string
	byAggregate := map[string]*tally{}
	for _, e := range events {
		if e.Type != "Added" || !holds(e) {
			continue
		}
		if byAggregate[e.Aggregate] == nil {
			byAggregate[e.Aggregate] = &tally{ID: e.Aggregate}
		}
		byAggregate[e.Aggregate].add(e.Sequence, e.Amount)
	}
	for _, id := range slices.Sorted(maps.Keys(byAggregate)) {
		t := byAggregate[id]
		rows = append(rows, fmt.Sprintf("%s: %d,%s", id, t.Total, t.Seen))
	}
	return rows
}
