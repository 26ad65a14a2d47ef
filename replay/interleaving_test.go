package replay_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// script is an interleaving: a migration, and what happens before it and between its statements.
type script struct {
	Bounds   []string // between batches
	Workers  int
	Group    int64 // events in a group of a catch-up
	Before   []action
	Begin    step
	Run      step
	CatchUps []step
	Cutover  step
}

// step is a step of the migration.
type step struct {
	Patient bool // it waits for writers without limit
	Actions []action
}

var (
	steps = rapid.Custom(func(t *rapid.T) step {
		return step{Patient: rapid.Bool().Draw(t, "patient"), Actions: rapid.SliceOfN(actions, 0, 15).Draw(t, "actions")}
	})
	scripts = rapid.Custom(func(t *rapid.T) script {
		return script{
			Bounds:   rapid.SampledFrom([][]string{nil, {"b"}, {"c"}, {"b", "c"}}).Draw(t, "bounds"),
			Workers:  rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "workers"),
			Group:    rapid.Int64Range(1, 4).Draw(t, "group"),
			Before:   rapid.SliceOfN(actions, 0, 10).Draw(t, "before"),
			Begin:    steps.Draw(t, "begin"),
			Run:      steps.Draw(t, "run"),
			CatchUps: rapid.SliceOfN(steps, 0, 2).Draw(t, "catch-ups"),
			Cutover:  steps.Draw(t, "cutover"),
		}
	})
)

const (
	phaseBegin   = "begin"
	phaseRun     = "run"
	phaseCatchUp = "catch-up"
	phaseCutover = "cutover"
)

// impatience is how long an impatient step waits for writers. It decides which of two good outcomes a step has.
const impatience = 10 * time.Millisecond

// worlds is into how many databases the interleavings are divided. With rapid's usual checks in each, there are 2,100.
const worlds = 21

// Whatever writers do, whenever they commit, and whoever else works on the migration: the new tables hold each event that
// was committed before the cutover once, and the ledger says so at the end of every step.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	counts := map[string]int{}
	count := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		counts[what]++
	}
	t.Cleanup(func() { report(t, counts) })
	for i := range worlds {
		k := kinds[i%len(kinds)]
		t.Run(fmt.Sprintf("%s %d", k, i), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, k)
			rapid.Check(t, func(t *rapid.T) {
				if err := w.interleave(scripts.Draw(t, "script"), count); err != nil {
					t.Fatal(err)
				}
				count("interleavings")
			})
		})
	}
}

// report says what was tried, and that it was enough.
func report(t *testing.T, counts map[string]int) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%6d %s", counts[what], what)
	}
	if t.Failed() || counts["interleavings"] < worlds*usualChecks && asked(t) {
		return // there were to be fewer
	}
	if counts["interleavings"] < 2_000 {
		t.Errorf("%d interleavings are fewer than 2,000", counts["interleavings"])
	}
	for _, phase := range []string{phaseBegin, phaseRun, phaseCatchUp, phaseCutover} {
		for _, what := range []string{"late commit in ", "prepared commit in ", "session ended in "} {
			if counts[what+phase] == 0 {
				t.Errorf("not one %s%s", what, phase)
			}
		}
	}
}

// usualChecks is rapid's default.
const usualChecks = 100

// asked says whether the command line asks for fewer interleavings than usual.
func asked(t *testing.T) bool {
	t.Helper()
	value := func(name string) string { return flag.Lookup(name).Value.String() }
	checks, err := strconv.Atoi(value("rapid.checks"))
	if err != nil {
		t.Fatal(err)
	}
	return testing.Short() || checks < usualChecks || strings.Contains(value("test.run"), "/")
}

// interleave runs the script.
func (w *world) interleave(sc script, count func(string)) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a migration that waits for ever is a failure
	defer cancel()
	if err := w.empty(ctx); err != nil {
		return err
	}
	m := w.migration(ctx, sc.Workers, count)
	m.job.SetGroupSize(sc.Group)
	m.bounds = sc.Bounds
	for _, a := range sc.Before {
		if a.Do != doRival {
			if err := m.do(ctx, a, nil); err != nil {
				return err
			}
		}
	}
	if _, err := m.look(); err != nil {
		return err
	}
	if err := m.step(phaseBegin, sc.Begin, m.begin); err != nil {
		return err
	}
	if err := m.step(phaseRun, sc.Run, m.run); err != nil {
		return err
	}
	for _, c := range sc.CatchUps {
		if err := m.step(phaseCatchUp, c, m.catchUp); err != nil {
			return err
		}
	}
	return m.step(phaseCutover, sc.Cutover, m.cutover)
}

// migration does what package viewschema does, with the parts of package replay.
type migration struct {
	*schedule
	ctx    context.Context
	bounds []string
	known  []int64 // committed positions at the end of the step before
	reason string  // why the first cut has to be 0; empty: it must not be, unless writers are open
}

func (w *world) migration(ctx context.Context, workers int, count func(string)) *migration {
	job := &replay.Job{
		Ledger: replay.Ledger{Schema: "view_schema"}, Version: 1, Projections: w.projections, Source: w.source, DB: w.db, Workers: workers,
	}
	s := &schedule{world: w, job: job, phase: phaseBegin, count: count}
	m := &migration{schedule: s, ctx: withHook(ctx, s.hook)}
	if w.kind == cached {
		m.reason = "cache 3"
	}
	return m
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

func (m *migration) wait() eventstore.Wait {
	if m.patient {
		return eventstore.Wait{}
	}
	return eventstore.Wait{Limit: impatience}
}

func (m *migration) begin() error {
	cut, err := m.world.source.Settle(m.ctx, m.job.DB, m.wait())
	if err != nil && !errors.Is(err, eventstore.ErrUnsettled) {
		return err
	}
	if err == nil && ((cut.Reason == "") != (m.reason == "") || !strings.Contains(cut.Reason, m.reason)) {
		return fmt.Errorf("cut %+v, and the reason should be %q", cut, m.reason)
	}
	var parts []eventstore.Part
	var part eventstore.Part
	for _, b := range m.bounds {
		part.To = projections.Text(b)
		parts = append(parts, part)
		part = eventstore.Part{Range: eventstore.Range{From: part.To}}
	}
	return m.job.Retry(m.ctx, pg.PointBegin, func(tx pgx.Tx) error {
		var id int64
		err := tx.QueryRow(m.ctx, `
			insert into view_schema.projector_migrations (from_version, to_version, state, cut, fingerprint)
			values (0, 1, 'building', $1, '{}')
			returning id`, cut.Position).Scan(&id)
		if err != nil {
			return err
		}
		m.job.Migration = id
		return m.job.Prepare(m.ctx, tx, append(slices.Clone(parts), part), nil, nil)
	})
}

func (m *migration) run() error {
	for {
		_, err := m.job.Run(m.ctx)
		if err == nil {
			break
		}
		if !pg.IsConnectionLost(err) {
			return err
		}
	}
	return m.job.Retry(m.ctx, pg.PointBuilt, func(tx pgx.Tx) error {
		_, err := tx.Exec(m.ctx, "update view_schema.projector_migrations set state = 'built'")
		return err
	})
}

func (m *migration) catchUp() error {
	pass, err := m.job.CatchUp(m.ctx, m.wait())
	if err == nil && !pass.Settled {
		m.count("catch-ups that leave the old cut")
	}
	return err
}

func (m *migration) cutover() error {
	for {
		err := pg.InTx(m.ctx, m.job.DB, pg.PointCutover, func(tx pgx.Tx) error {
			if _, err := tx.Exec(m.ctx, "set local lock_timeout = '1ms'"); err != nil {
				return err
			}
			cut, err := m.job.Own(m.ctx, tx, replay.Built)
			if err != nil {
				return err
			}
			if err := m.world.source.HoldWriters(m.ctx, tx); err != nil {
				return err
			}
			if _, err := m.job.Finish(m.ctx, tx, cut); err != nil {
				return err
			}
			_, err = tx.Exec(m.ctx, "update view_schema.projector_migrations set state = 'active'")
			return err
		})
		switch {
		case pg.IsLockTimeout(err):
			m.count("cutovers that give way")
			m.mu.Lock()
			m.keep(m.finishAll(context.WithoutCancel(m.ctx)))
			m.mu.Unlock()
			if err := errors.Join(m.err, m.join()); err != nil {
				return err
			}
		case !pg.IsConnectionLost(err):
			return err
		}
	}
}

// stored is a committed event.
type stored struct {
	Position, Sequence int64
	Aggregate, Type    string
	Amount             int64
}

// look reads the committed events.
func (m *migration) look() ([]stored, error) {
	rows, _ := m.world.admin.Query(context.Background(), `
		select position, sequence_number, aggregate_id, event_type, (data->>'amount')::bigint
		from events
		order by aggregate_id, sequence_number`)
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	m.known = m.known[:0]
	for _, e := range events {
		m.known = append(m.known, e.Position)
	}
	return events, err
}

// check holds ledger, tables and events against each other, when no transaction of the migration is open.
func (m *migration) check() error {
	ctx := context.Background()
	before := slices.Clone(m.known)
	events, err := m.look()
	if err != nil {
		return err
	}
	var cut int64
	var ids []int64
	err = m.world.admin.QueryRow(ctx, `
		select cut, array(select position from projector_replayed_ids where migration_id = id order by position)
		from projector_migrations
		where id = $1`, m.job.Migration).Scan(&cut, &ids)
	if err != nil {
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
	if m.phase == phaseCutover {
		before = m.known // and nothing was committed while writers were held off
	}
	holds := func(position int64) bool {
		_, found := slices.BinarySearch(ids, position)
		return found || position <= cut
	}
	for _, position := range before {
		if !holds(position) {
			return fmt.Errorf("the ledger lacks %d, which was committed before the step: cut %d, ids %v", position, cut, ids)
		}
	}
	rows, _ := m.world.admin.Query(ctx, "select format('%s: %s,%s', id, total, seen) from tallies order by id")
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if want := fold(events, holds); !slices.Equal(got, want) {
		return fmt.Errorf("cut %d, ids %v, events %v:\ngot  %q\nwant %q", cut, ids, events, got, want)
	}
	return nil
}

// fold is the oracle: the rows that the events leave, of those that the ledger holds.
func fold(events []stored, holds func(position int64) bool) []string {
	var rows []string
	byAggregate := map[string]*tally{}
	for _, e := range events {
		if e.Type != "Added" || !holds(e.Position) {
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
