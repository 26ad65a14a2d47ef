package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/examples/bank"
)

// cutoverTail is how many events a cutover finds.
const cutoverTail = 1_000

// tails are what comes after a rebuild, a few times: a catch-up of 1%, the next one, and a cutover.
type tails struct {
	rebuilds, catchUps, nexts, cutovers []outcome
}

// follow measures the tails once, whichever rows need them.
func (b *bench) follow(ctx context.Context) (*tails, error) {
	if b.tails != nil {
		return b.tails, nil
	}
	from, err := b.store(ctx, b.events)
	if err != nil {
		return nil, err
	}
	const database = "tails"
	if err := b.derive(ctx, database, from, ""); err != nil {
		return nil, err
	}
	t, events, history := &tails{}, b.events, sequel(b.events)
	for range b.repeat {
		o, err := b.rebuild(ctx, asBank, database, events)
		if err != nil {
			return nil, err
		}
		t.rebuilds = append(t.rebuilds, o)
		for _, step := range []struct {
			command string
			events  int
			to      *[]outcome
		}{{"catchup", b.events / 100, &t.catchUps}, {"catchup", b.events / 100, &t.nexts}, {"offline", cutoverTail, &t.cutovers}} {
			o, err := b.tail(ctx, database, history, step.command, step.events)
			if err != nil {
				return nil, err
			}
			events += step.events
			*step.to = append(*step.to, o)
		}
		b.say("rebuild %.2f s, catch-up of 1%% %.2f s, the next one %.2f s, cutover holds writers off for %.1f ms", o.Wall.Seconds(),
			last(t.catchUps).Wall.Seconds(), last(t.nexts).Wall.Seconds(), 1000*last(t.cutovers).HeldOff)
	}
	b.tails = t
	return t, b.drop(ctx, database)
}

// tail appends events and runs the command that has to apply them.
func (b *bench) tail(ctx context.Context, database string, history *bank.History, command string, events int) (outcome, error) {
	if err := b.appendEvents(ctx, database, history, events); err != nil {
		return outcome{}, err
	}
	o, err := b.migrate(ctx, asBank, b.server.URL(database), command)
	if err == nil && o.Events != int64(events) {
		err = fmt.Errorf("migrate %s has applied %d events instead of %d", command, o.Events, events)
	}
	return o, err
}

// appendEvents appends what the customers do next, and lets it be written down.
func (b *bench) appendEvents(ctx context.Context, database string, history *bank.History, events int) error {
	err := b.with(ctx, database, func(conn *pgx.Conn) error { return history.Append(ctx, conn, events) })
	if err != nil {
		return err
	}
	return b.settle(ctx)
}

func (b *bench) catchUp(ctx context.Context) error {
	t, err := b.follow(ctx)
	if err != nil {
		return err
	}
	wall := func(o outcome) time.Duration { return o.Wall }
	for _, m := range []struct {
		what     string
		catchUps []outcome
	}{
		{"catch-up of 1% new events ÷ 1% of the time of the rebuild", t.catchUps},
		{"the next one, of as many", t.nexts},
	} {
		r := row{Row: 7, What: m.what, Must: new(6.0), Aim: new(3.0)}
		r.Measured = 100 * ratio(median(m.catchUps, wall), median(t.rebuilds, wall))
		for i := range t.rebuilds {
			r.spread(100 * ratio(m.catchUps[i].Wall, t.rebuilds[i].Wall))
		}
		b.report.add(r)
	}
	return nil
}

func (b *bench) cutover(ctx context.Context) error {
	t, err := b.follow(ctx)
	if err != nil {
		return err
	}
	r := row{Row: 8, What: "writers held off by a cutover with a tail of 1,000 events", Unit: "ms", Must: new(250.0), Aim: new(100.0)}
	r.Measured = 1000 * median(t.cutovers, func(o outcome) float64 { return o.HeldOff })
	for _, o := range t.cutovers {
		r.spread(1000 * o.HeldOff)
	}
	b.report.add(r)
	return nil
}
