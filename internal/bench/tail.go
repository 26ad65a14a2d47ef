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

// tails are what comes after a rebuild, a few times: catch-ups of 1%, and a cutover.
type tails struct {
	rebuilds, cutovers []outcome
	catchUps           []outcome // catchUpsEach for each rebuild
}

const catchUpsEach = 2

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
		for range catchUpsEach {
			if o, err = b.tail(ctx, database, history, "catchup", b.events/100); err != nil {
				return nil, err
			}
			events += b.events / 100
			t.catchUps = append(t.catchUps, o)
			b.say("rebuild %.2f s, catch-up of 1%% %.2f s", last(t.rebuilds).Wall.Seconds(), o.Wall.Seconds())
		}
		if o, err = b.tail(ctx, database, history, "offline", cutoverTail); err != nil {
			return nil, err
		}
		events += cutoverTail
		t.cutovers = append(t.cutovers, o)
		b.say("cutover holds writers off for %.1f ms", 1000*o.HeldOff)
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
	r := row{Row: 7, What: "catch-up of 1% new events ÷ 1% of the time of the rebuild", Must: new(6.0), Aim: new(3.0)}
	r.Measured = 100 * ratio(median(t.catchUps, wall), median(t.rebuilds, wall))
	for i, o := range t.catchUps {
		r.spread(100 * ratio(o.Wall, t.rebuilds[i/catchUpsEach].Wall))
	}
	b.report.add(r)
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
