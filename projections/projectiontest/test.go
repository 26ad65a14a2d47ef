package projectiontest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// Test is a test of a definition's projectors, made by Memory or Database. It is for the goroutine of its test.
type Test struct {
	tb      testing.TB
	set     *projections.Set
	options options
	tables  tables

	drawn    int64 // positions
	given    bool  // events since the tables were last rebuilt
	live     bool  // events were projected since then
	story    []string
	failed   error // of the last step, to be expected by ThenError
	failedAt string
}

// tables are where the events and the rows of a Test are.
type tables interface {
	events() Events
	// project appends events and projects them, all or nothing. Their payloads come a second time, encoded.
	project(ctx context.Context, events []projections.New, payloads [][]byte) error
	// regenerate makes the rows anew from all events, or leaves them as they are.
	regenerate(ctx context.Context) error
	// rows have all rows.
	rows(ctx context.Context) (*projections.Memory, error)
	pool() *pgxpool.Pool // nil in memory
}

// Memory begins a test without a database, whose steps take microseconds. Of the definition it needs Events and Projectors.
// What the SQL of the tables does is not there: see projections.Memory.
func Memory(t testing.TB, d viewschema.Definition, opts ...Option) *Test {
	t.Helper()
	test := begin(t, d, opts)
	test.tables = &memoryTables{set: test.set, memory: test.set.Memory(), store: NewMemoryEvents(), mapping: d.Source}
	return test
}

// Database begins a test on a database of its own, with the event table and all view tables, empty. Its server is the one
// that DATABASE_URL names, whose user must be allowed to create databases, or a private one that ends with the test binary.
//
// The database is copied, in tens of milliseconds, from a template that is made once for a definition and stays on the
// server until the definition changes. When the test ends, it is dropped.
func Database(t testing.TB, d viewschema.Definition, opts ...Option) *Test {
	t.Helper()
	test := begin(t, d, opts)
	tables, err := openDatabase(t, d, test.set, test.options)
	if err != nil {
		t.Fatalf("a database for this test: %v", err)
	}
	test.tables = tables
	return test
}

func begin(t testing.TB, d viewschema.Definition, list []Option) *Test {
	t.Helper()
	set, err := projections.NewSet(d.Events, d.Projectors...)
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOptions(list)
	if err != nil {
		t.Fatal(err)
	}
	test := &Test{tb: t, set: set, options: o}
	t.Cleanup(func() {
		if err := test.take(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return test
}

// Given adds events to the history of an aggregate: payloads, or a projections.New with a payload and what of its Meta is
// not to be filled in, or a projections.Raw with an event as it lies in the store, of an older version say. Sequence numbers
// count on from the aggregate's last event, positions from 1, and times are At of the position.
//
// The view tables are rebuilt from all events before the next other step, as a migration rebuilds them.
//
// The aggregate is a UUID of whatever type, a string or a projections.ID.
func (t *Test) Given(aggregate any, events ...any) {
	t.tb.Helper()
	t.check()
	prepared, payloads := t.prepare("given", aggregate, events)
	stored := slices.Clone(prepared)
	for i := range stored {
		stored[i].Data = payloads[i]
	}
	if _, err := t.tables.events().Append(t.tb.Context(), stored...); err != nil {
		t.tb.Fatalf("Given: %v", err)
	}
	t.given = true
}

// When appends events, and projects them as the application does: live and in one transaction. It takes what Given takes,
// but for projections.Raw. If it fails, nothing of it stays; the test has to expect that with ThenError.
func (t *Test) When(aggregate any, events ...any) {
	t.tb.Helper()
	t.fill("When")
	told := len(t.story)
	prepared, payloads := t.prepare("when", aggregate, events)
	if err := t.tables.project(t.tb.Context(), prepared, payloads); err != nil {
		for i := range t.story[told:] {
			t.story[told+i] += "  (failed)"
		}
		t.fail("When", err)
		return
	}
	t.live = true
}

// Then compares all rows of each model that is named with those that are wanted, whatever their order. If events were
// projected live, it rebuilds the tables from all events and compares once more: both ways have to lead to the same rows.
func (t *Test) Then(rows ...any) {
	t.tb.Helper()
	if len(rows) == 0 {
		t.tb.Fatal("Then: no rows are named; for none, use ThenNone with the model")
	}
	t.then("Then", rows, true)
}

// ThenNone is Then for models of which there are no rows.
func (t *Test) ThenNone(models ...any) {
	t.tb.Helper()
	if len(models) == 0 {
		t.tb.Fatal("ThenNone: no models are named")
	}
	t.then("ThenNone", models, false)
}

// ThenError expects the last step to have failed, with an error that wraps target, if that is not nil, and has the texts in
// it. After a When that fails the rows are what they were; after a Given that cannot be projected, too, but its events stay.
func (t *Test) ThenError(target error, texts ...string) {
	t.tb.Helper()
	if t.failed == nil && t.given {
		if err := t.rebuild(); err != nil {
			t.fail("Given", err)
		}
	}
	err := t.failed
	t.failed = nil
	switch {
	case err == nil:
		t.tb.Errorf("ThenError: no error\n%s", t.told())
	case target != nil && !errors.Is(err, target):
		t.tb.Errorf("ThenError: got %v\nwhich does not wrap %v\n%s", err, target, t.told())
	default:
		for _, text := range texts {
			if !strings.Contains(err.Error(), text) {
				t.tb.Errorf("ThenError: got %v\nwhich does not say %q\n%s", err, text, t.told())
			}
		}
	}
}

// Regenerate rebuilds the view tables from all events, as a migration does, or viewschema.Schema.ReplayAll in development.
func (t *Test) Regenerate() {
	t.tb.Helper()
	t.check()
	if err := t.rebuild(); err != nil {
		t.fail("Regenerate", err)
	}
}

// Events is the event store of the test. What is appended to it directly is projected by Regenerate.
func (t *Test) Events() Events { return t.tables.events() }

// Pool is the database of the test, for queries of its own. It ends a test in memory.
func (t *Test) Pool() *pgxpool.Pool {
	t.tb.Helper()
	t.fill("Pool")
	pool := t.tables.pool()
	if pool == nil {
		t.tb.Fatal("Pool: a test in memory has no database; make it one of projectiontest.Database")
	}
	return pool
}

// Rows returns all rows of a model, in the order of their keys.
func Rows[R any](t *Test) []R {
	t.tb.Helper()
	t.fill("Rows")
	memory, err := t.tables.rows(t.tb.Context())
	if err != nil {
		t.tb.Fatalf("Rows: %v", err)
	}
	_, list, err := memory.Rows(reflect.TypeFor[R]())
	if err != nil {
		t.tb.Fatalf("Rows: %v", err)
	}
	rows := make([]R, len(list))
	for i, row := range list {
		rows[i] = row.Value.(R)
	}
	return rows
}

// prepare fills in what the test has not said of its events.
func (t *Test) prepare(step string, aggregate any, events []any) (prepared []projections.New, payloads [][]byte) {
	t.tb.Helper()
	id, err := aggregateID(aggregate)
	switch {
	case err != nil:
		t.tb.Fatalf("%s: %v", step, err)
	case len(events) == 0:
		t.tb.Fatalf("%s: aggregate %s without an event", step, named(id.String()))
	}
	last := map[projections.ID]int64{}
	for _, event := range events {
		e, payload, err := t.event(step, id, event, last)
		if err != nil {
			t.tb.Fatalf("%s, aggregate %s: %v", step, named(id.String()), err)
		}
		prepared, payloads = append(prepared, e), append(payloads, payload)
		t.story = append(t.story, fmt.Sprintf("%-6s %3d  %s #%d  %s", step, t.drawn, named(id.String()), e.Sequence, told(e, payload)))
	}
	return prepared, payloads
}

// event fills in one event. last are the sequence numbers of the aggregates' last events, as far as they were looked up.
func (t *Test) event(step string, id projections.ID, event any, last map[projections.ID]int64) (e projections.New, payload []byte, err error) {
	switch v := event.(type) {
	case projections.New:
		e = v
	case projections.Raw:
		if step != "given" {
			return e, nil, errors.New("a projections.Raw is an event that is stored already: it can be Given")
		}
		payload = v.Data
		e.Meta = projections.Meta{
			Position: v.Position, AggregateID: v.AggregateID, Sequence: v.Sequence, Type: string(v.Type), Time: v.Time,
			AggregateType: v.AggregateType, Metadata: v.Metadata, SchemaVersion: v.SchemaVersion, Tenant: v.Tenant, Partition: v.Partition,
		}
	default:
		e.Data = v
	}
	if e.AggregateID.IsZero() {
		e.AggregateID = id
	}
	if _, known := last[e.AggregateID]; !known {
		stored, err := t.tables.events().Read(t.tb.Context(), 0, e.AggregateID)
		if err != nil {
			return e, nil, err
		}
		for _, s := range stored {
			last[e.AggregateID] = max(s.Sequence, last[e.AggregateID])
		}
	}
	if e.Sequence == 0 {
		e.Sequence = last[e.AggregateID] + 1
	}
	last[e.AggregateID] = max(e.Sequence, last[e.AggregateID])
	t.drawn++
	if e.Time.IsZero() {
		e.Time = At(t.drawn)
	}
	if payload != nil {
		return e, payload, nil
	}
	if e, err = t.set.Stored(e); err != nil {
		return e, nil, err
	}
	payload, err = t.options.encode(e)
	return e, payload, err
}

// fill brings the tables up to date before a step, which it ends the test for if that cannot be.
func (t *Test) fill(step string) {
	t.tb.Helper()
	t.check()
	if !t.given {
		return
	}
	if err := t.rebuild(); err != nil {
		t.tb.Fatalf("%s: the events that were given cannot be projected: %v\n%s", step, err, t.told())
	}
}

func (t *Test) rebuild() error {
	err := t.tables.regenerate(t.tb.Context())
	if err == nil {
		t.given, t.live = false, false
	}
	return err
}

func (t *Test) then(step string, named []any, wanted bool) {
	t.tb.Helper()
	t.fill(step)
	how := "the rows rebuilt from all events are not as wanted"
	if t.live {
		how = "the rows projected live are not as wanted"
	}
	diff, err := t.compare(named, wanted)
	if err == nil && diff == "" && t.live {
		how = "the rows projected live are as wanted, but those rebuilt from all events are not"
		if err = t.rebuild(); err == nil {
			diff, err = t.compare(named, wanted)
		} else {
			err = fmt.Errorf("the rows are as wanted, but they cannot be rebuilt from all events: %w", err)
		}
	}
	switch {
	case err != nil:
		t.tb.Fatalf("%s: %v\n%s", step, err, t.told())
	case diff != "":
		t.tb.Errorf("%s: %s\n%s%s", step, how, diff, t.told())
	}
}

// compare compares the rows of all models that are named.
func (t *Test) compare(named []any, wanted bool) (diff string, err error) {
	memory, err := t.tables.rows(t.tb.Context())
	if err != nil {
		return "", err
	}
	var models []reflect.Type
	want := map[reflect.Type][]projections.Row{}
	for _, value := range named {
		if v := reflect.ValueOf(value); v.Kind() == reflect.Pointer && !v.IsNil() {
			value = v.Elem().Interface()
		}
		model := reflect.TypeOf(value)
		if !slices.Contains(models, model) {
			models = append(models, model)
		}
		if !wanted {
			continue
		}
		row, err := memory.Row(value)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(want[model], func(other projections.Row) bool { return other.Key == row.Key }) {
			return "", fmt.Errorf("two of the rows of %v have the key %s", model, row.Key)
		}
		want[model] = append(want[model], row)
	}
	for _, model := range models {
		table, got, err := memory.Rows(model)
		if err != nil {
			return "", err
		}
		if d := t.options.diff(got, want[model]); d != "" {
			diff += table + ":\n" + d
		}
	}
	return diff, nil
}

// fail notes that a step has failed; whoever has written the test is to expect it.
func (t *Test) fail(step string, err error) {
	_, file, line, _ := runtime.Caller(2)
	t.failed, t.failedAt = err, fmt.Sprintf("%s of %s:%d", step, filepath.Base(file), line)
}

// take returns the failure that no ThenError has expected.
func (t *Test) take() error {
	if t.failed == nil {
		return nil
	}
	err := fmt.Errorf("%s failed: %w\n%s", t.failedAt, t.failed, t.told())
	t.failed = nil
	return err
}

// check ends the test if a step has failed and nobody expects it.
func (t *Test) check() {
	t.tb.Helper()
	if err := t.take(); err != nil {
		t.tb.Fatalf("%v", err)
	}
}

// told is what happened so far.
func (t *Test) told() string { return "  " + strings.Join(t.story, "\n  ") }

// told prints an event.
func told(e projections.New, payload []byte) string {
	if e.Data == nil {
		return e.Type + " " + string(payload)
	}
	return literal(e.Data)
}
