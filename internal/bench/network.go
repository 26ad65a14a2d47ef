package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"
)

// added are the delays that a network adds to a round trip; half of each to either direction. What is measured is held against
// the first.
var added = []time.Duration{0, time.Millisecond, far, 50 * time.Millisecond}

// far is the delay that has a bound.
const far = 10 * time.Millisecond

// behind says which server is behind the network; the worker is near the other one.
type behind string

const (
	viewsBehind  behind = "views"
	eventsBehind behind = "events"
)

// apart is two servers, one of them with the events of the bench.
type apart struct {
	*bench
	views *bench // with the view tables
}

// viewsDatabase is their database.
const viewsDatabase = "views"

// overNetwork measures rebuilds whose view tables are on another server than the events, with the one or the other behind a network.
func (b *bench) overNetwork(ctx context.Context) (err error) {
	const few = 1_000
	database, err := b.store(ctx, b.events)
	if err != nil {
		return err
	}
	small, err := b.store(ctx, few)
	if err != nil {
		return err
	}
	b.say("starting a second PostgreSQL")
	server, err := b.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	a := &apart{b, &bench{options: b.options, server: server, stderr: b.stderr, began: b.began}}
	if err := a.views.exec(ctx, "", "create database "+viewsDatabase); err != nil {
		return err
	}
	if _, _, err := a.rebuild(ctx, database, b.events, viewsBehind, 0); err != nil { // it warms up
		return err
	}
	for _, what := range []behind{viewsBehind, eventsBehind} {
		if err := a.ratios(ctx, database, what); err != nil {
			return err
		}
	}
	for _, what := range []behind{viewsBehind, eventsBehind} {
		r := row{Row: 12, What: fmt.Sprintf("%s events, %s on another server, %s away", number(few), what, far), Unit: "s"}
		err := a.seconds(&r, func() (outcome, error) {
			o, _, err := a.rebuild(ctx, small, few, what, far)
			return o, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ratios are rebuilds of all events with each delay, measured in turns.
func (a *apart) ratios(ctx context.Context, database string, what behind) error {
	results := make([][]outcome, len(added))
	for i := range a.turns(len(added)) {
		delay := added[i]
		o, sent, err := a.rebuild(ctx, database, a.events, what, delay)
		if err != nil {
			return err
		}
		results[i] = append(results[i], o)
		a.say("%s %s away: %.2f s; %s", what, delay, o.Wall.Seconds(), sent)
		if delay == far && len(results[i]) == a.repeat {
			a.report.Notes = append(a.report.Notes, fmt.Sprintf("row 12, %s %s away: %s", what, delay, sent))
		}
	}
	for i, delay := range added[1:] {
		r := row{Row: 12, What: fmt.Sprintf("%s on another server, %s away ÷ no delay", what, delay)}
		if delay == far {
			r.Must = new(1.3)
		}
		a.report.add(versus(r, results[i+1], results[0]))
	}
	return nil
}

// rebuild is bench.rebuild with the view tables on the other server, and one of the two behind a network. It also returns what has
// gone over that.
func (a *apart) rebuild(ctx context.Context, database string, events int, what behind, delay time.Duration) (o outcome, sent *traffic, err error) {
	if err := errors.Join(a.settle(ctx), a.views.reset(ctx, viewsDatabase)); err != nil {
		return o, nil, err
	}
	views, from := a.views.server.URL(viewsDatabase), a.server.URL(database)
	if _, _, err := a.command(ctx, asBank, views, "init"); err != nil { // which is once in the life of a database
		return o, nil, err
	}
	way := &views
	if what == eventsBehind {
		way = &from
	}
	l, err := detour(way, delay)
	if err != nil {
		return o, nil, err
	}
	o, err = a.migrate(ctx, asBank, views, "online", "--events-url", from)
	err = errors.Join(o.complete(database, events, err), l.Close())
	return o, &l.sent, err
}

// detour has a URL of a private server lead over a network.
func detour(way *string, delay time.Duration) (*link, error) {
	to, err := url.Parse(*way)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(to.Query().Get("host"), ".s.PGSQL."+to.Query().Get("port"))
	l, err := newLink("unix", socket, delay/2)
	if err != nil {
		return nil, err
	}
	to.Host, to.RawQuery = l.listener.Addr().String(), "sslmode=disable"
	*way = to.String()
	return l, nil
}
