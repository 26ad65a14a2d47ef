package main

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/viewschema/projector/estimate"
)

type measurement struct {
	row     int
	measure func(*bench, context.Context) error
}

// measurements are the rows of the table. They are measured in this order: those with the largest server settings come first,
// and the last restarts the server with little memory.
var measurements = []measurement{
	{1, (*bench).ratioToFloor},
	{2, (*bench).growth},
	{3, (*bench).kindsOfIDs},
	{4, (*bench).oneLargeAggregate},
	{5, (*bench).fewEvents},
	{6, (*bench).memory},
	{7, (*bench).catchUp},
	{8, (*bench).cutover},
	{9, (*bench).ledger},
	{11, (*bench).ratioInSQL},
	{14, (*bench).estimates},

	{12, (*bench).overNetwork},
	{13, (*bench).writeAheadLog},
	{10, (*bench).blocksRead},
}

// comparison is a rebuild of the bank and its floor, measured in turns.
type comparison struct {
	database string
	floors   []floorTimes
	rebuilds []outcome
}

func (c *comparison) floor() time.Duration {
	return median(c.floors, floorTimes.total)
}

func (c *comparison) rebuild() time.Duration {
	return median(c.rebuilds, func(o outcome) time.Duration { return o.Wall })
}

// compare measures the bank with a number of events once, whichever rows need it.
func (b *bench) compare(ctx context.Context, events int) (*comparison, error) {
	c := b.pairs[events]
	if c != nil {
		return c, nil
	}
	c, err := b.compareWith(ctx, asBank, events)
	if err != nil {
		return nil, err
	}
	b.pairs[events] = c
	b.report.Sizes = append(b.report.Sizes, newSize(events, c))
	return c, nil
}

// compareWith measures a worker and the floor in turns.
func (b *bench) compareWith(ctx context.Context, w worker, events int) (*comparison, error) {
	database, err := b.store(ctx, events)
	if err != nil {
		return nil, err
	}
	c := &comparison{database: database}
	if _, err := b.rebuild(ctx, w, database, events); err != nil { // it warms up, and makes what the floor copies
		return nil, err
	}
	floor, err := b.newFloor(ctx, database)
	if err != nil {
		return nil, err
	}
	want, err := floor.rows(ctx, "view_schema")
	if err != nil {
		return nil, err
	}
	for range b.repeat {
		times, err := floor.measure(ctx)
		if err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
		if got, err := floor.rows(ctx, "floor"); err != nil || got != want {
			return nil, fmt.Errorf("the floor has %d rows, the rebuild %d: %w", got, want, err)
		}
		o, err := b.rebuild(ctx, w, database, events)
		if err != nil {
			return nil, err
		}
		c.floors, c.rebuilds = append(c.floors, times), append(c.rebuilds, o)
		b.say("%s events: floor %.2f s, rebuild %.2f s", number(events), times.total().Seconds(), o.Wall.Seconds())
	}
	return c, nil
}

func (b *bench) ratioToFloor(ctx context.Context) error {
	for _, events := range []int{b.events / 10, b.events} {
		c, err := b.compare(ctx, events)
		if err != nil {
			return err
		}
		r := row{Row: 1, What: fmt.Sprintf("rebuild ÷ floor, %s events", number(events)), Measured: ratio(c.rebuild(), c.floor())}
		if events == b.events {
			r.Must, r.Aim = new(1.6), new(1.25)
		}
		for i := range c.floors {
			r.spread(ratio(c.rebuilds[i].Wall, c.floors[i].total()))
		}
		b.report.add(r)
	}
	return nil
}

// ratioInSQL is the bank in SQL, which makes the same rows.
func (b *bench) ratioInSQL(ctx context.Context) error {
	c, err := b.compareWith(ctx, asSQL, b.events)
	if err != nil {
		return err
	}
	r := row{
		Row: 11, What: fmt.Sprintf("rebuild in SQL ÷ floor, %s events", number(b.events)), Measured: ratio(c.rebuild(), c.floor()),
		Must: new(1.5), Aim: new(1.1),
	}
	for i := range c.floors {
		r.spread(ratio(c.rebuilds[i].Wall, c.floors[i].total()))
	}
	b.report.add(r)
	return nil
}

func (b *bench) growth(ctx context.Context) error {
	small, err := b.compare(ctx, b.events/10)
	if err != nil {
		return err
	}
	large, err := b.compare(ctx, b.events)
	if err != nil {
		return err
	}
	b.report.add(row{
		Row: 2, What: fmt.Sprintf("time of %s events ÷ time of %s", number(b.events), number(b.events/10)),
		Measured: ratio(large.rebuild(), small.rebuild()), Must: new(11.0), Aim: new(10.0),
	})
	return nil
}

// contender is a data set and the worker that replays it.
type contender struct {
	what, database string
	worker         worker
}

// turns yields the places of what is measured in turns, each turn beginning with the next place: a machine gets slower and faster by
// itself, and what comes after itself finds its data set in shared_buffers, which must not favor one of three.
func (b *bench) turns(contenders int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for turn := range b.repeat {
			for i := range contenders {
				if !yield((turn + i) % contenders) {
					return
				}
			}
		}
	}
}

// race rebuilds the data sets in turns.
func (b *bench) race(ctx context.Context, contenders ...contender) (results [][]outcome, err error) {
	results = make([][]outcome, len(contenders))
	for i := range b.turns(len(contenders)) {
		c := contenders[i]
		o, err := b.rebuild(ctx, c.worker, c.database, b.events)
		if err != nil {
			return nil, err
		}
		b.say("%s: %.2f s, peak memory %.0f MiB", c.what, o.Wall.Seconds(), mebibytes(o.Peak))
		results[i] = append(results[i], o)
	}
	return results, nil
}

// versus makes a row of a race's result and the one that it is held against.
func versus(r row, these, those []outcome) row {
	wall := func(o outcome) time.Duration { return o.Wall }
	r.Measured = ratio(median(these, wall), median(those, wall))
	for i := range these {
		r.spread(ratio(these[i].Wall, those[i].Wall))
	}
	return r
}

func (b *bench) kindsOfIDs(ctx context.Context) error {
	random, err := b.store(ctx, b.events)
	if err != nil {
		return err
	}
	if err := b.derive(ctx, "uuidv7", random, toUUIDv7); err != nil {
		return err
	}
	if err := b.derive(ctx, "texts", random, toText); err != nil {
		return err
	}
	kinds := []contender{{"UUIDv4 ids", random, asUUIDs}, {"UUIDv7 ids", "uuidv7", asUUIDs}, {"text ids", "texts", asTexts}}
	results, err := b.race(ctx, kinds...)
	if err != nil {
		return err
	}
	for _, c := range kinds {
		if err := b.notePlan(ctx, 3, c); err != nil {
			return err
		}
	}
	v4, v7, texts := results[0], results[1], results[2]
	if rows := v4[0].Rows; v7[0].Rows != rows || texts[0].Rows != rows {
		return fmt.Errorf("UUIDv4 ids make %d rows, UUIDv7 %d, text %d: they should be as many", rows, v7[0].Rows, texts[0].Rows)
	}
	b.report.add(versus(row{Row: 3, What: "UUIDv7 ids ÷ UUIDv4 ids", Must: new(1.15), Aim: new(1.0)}, v7, v4))
	b.report.add(versus(row{Row: 3, What: "text ids like `account-123` ÷ UUIDv4 ids", Must: new(1.15), Aim: new(1.0)}, texts, v4))
	if err := b.drop(ctx, "uuidv7"); err != nil {
		return err
	}
	return b.drop(ctx, "texts")
}

func (b *bench) oneLargeAggregate(ctx context.Context) error {
	even, err := b.store(ctx, b.events)
	if err != nil {
		return err
	}
	if err := b.derive(ctx, "hot", even, toHot); err != nil {
		return err
	}
	results, err := b.race(ctx, contender{"even spread", even, asUUIDs}, contender{"one large aggregate", "hot", asUUIDs})
	if err != nil {
		return err
	}
	var peak int64
	for _, o := range results[1] {
		peak = max(peak, o.Peak)
	}
	b.report.Notes = append(b.report.Notes, fmt.Sprintf("row 4: the worker's peak memory is %.0f MiB with the large aggregate", mebibytes(peak)))
	b.report.add(versus(row{Row: 4, What: "one aggregate with 30% of all events ÷ even spread", Must: new(1.5), Aim: new(1.2)}, results[1], results[0]))
	return b.drop(ctx, "hot")
}

func (b *bench) fewEvents(ctx context.Context) error {
	const events = 1_000
	database, err := b.store(ctx, events)
	if err != nil {
		return err
	}
	r := row{Row: 5, What: "1,000 events, from the start of the process to its end", Unit: "s", Must: new(0.5), Aim: new(0.2)}
	return b.seconds(&r, func() (outcome, error) { return b.rebuild(ctx, asBank, database, events) })
}

// fewRepeated is how often to measure what takes little time, whatever the options say.
const fewRepeated = 5

// seconds measures what takes little time, and adds the row.
func (b *bench) seconds(r *row, rebuild func() (outcome, error)) error {
	var took []outcome
	for range fewRepeated {
		o, err := rebuild()
		if err != nil {
			return err
		}
		took = append(took, o)
		r.spread(o.Wall.Seconds())
	}
	r.Measured = median(took, func(o outcome) time.Duration { return o.Wall }).Seconds()
	b.report.add(*r)
	return nil
}

func (b *bench) memory(ctx context.Context) error {
	c, err := b.compare(ctx, b.events)
	if err != nil {
		return err
	}
	b.report.add(b.peak(b.events, c.rebuilds))
	if !b.large {
		return nil
	}
	t, err := b.tenfold(ctx)
	if err != nil {
		return err
	}
	b.report.add(b.peak(10*b.events, []outcome{t.rebuild}))
	return nil
}

// tenfold is a rebuild of ten times the events, and what was expected of it.
type tenfold struct {
	forecast forecast
	rebuild  outcome
	tables   []estimate.Table
}

// tenfold measures it once, whichever rows need it.
func (b *bench) tenfold(ctx context.Context) (*tenfold, error) {
	if b.ten != nil {
		return b.ten, nil
	}
	const database = "tenfold"
	from, err := b.store(ctx, b.events)
	if err != nil {
		return nil, err
	}
	if err := b.derive(ctx, database, from, toTenfold); err != nil {
		return nil, err
	}
	t := &tenfold{}
	if t.forecast, err = b.forecast(ctx, asBank, database); err != nil {
		return nil, err
	}
	if t.rebuild, err = b.rebuild(ctx, asBank, database, 10*b.events); err != nil {
		return nil, err
	}
	if t.tables, err = b.builtTables(ctx, database); err != nil {
		return nil, err
	}
	b.say("%s events: rebuild %.2f s", number(10*b.events), t.rebuild.Wall.Seconds())
	b.report.Sizes = append(b.report.Sizes, newSize(10*b.events, &comparison{rebuilds: []outcome{t.rebuild}}))
	b.ten = t
	return t, b.drop(ctx, database)
}

// peak is the highest of the runs.
func (b *bench) peak(events int, runs []outcome) row {
	r := row{
		Row: 6, What: fmt.Sprintf("peak memory of the worker, %s events", number(events)), Unit: "MiB", Must: new(256.0), Aim: new(128.0),
	}
	hidden := true
	for _, o := range runs {
		r.Measured = max(r.Measured, mebibytes(o.Peak))
		hidden = hidden && o.Peak <= o.Own
	}
	if hidden {
		r.What += ", at the most"
	}
	return r
}
