package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// session is a command at work.
type session struct {
	*program
	flags  *urfave.Context
	schema *viewschema.Schema
	pool   *pgxpool.Pool
	events *pgxpool.Pool // of --events-url; nil: there is none
	store  *pgxpool.Pool // of the events' primary
	screen *screen       // nil: standard error is no terminal
	page   *page         // nil: --http was not asked for
	log    zerolog.Logger
}

// open checks the flags and the definition, in this order, and then connects to the database.
func (p *program) open(c *urfave.Context) (s *session, err error) {
	workers := c.Int("workers")
	if workers < 1 {
		return nil, usagef("--workers %d: at least 1", workers)
	}
	for _, name := range []string{"lock-wait", "cut-timeout", "pause-budget", "lock-timeout", "interval"} {
		if c.IsSet(name) && c.Duration(name) <= 0 { // to viewschema, 0 is its default
			return nil, usagef("--%s %s: more than 0", name, c.Duration(name))
		}
	}
	if err := checkParking(c); err != nil {
		return nil, err
	}
	change, err := throttleChange(c, c.IsSet)
	if err != nil {
		return nil, err
	}
	level, err := zerolog.ParseLevel(c.String("log-level"))
	if err != nil || level == zerolog.NoLevel {
		return nil, usagef("--log-level %s: use debug, info, warn or error", c.String("log-level"))
	}
	if err := p.config(c); err != nil {
		return nil, err
	}
	listener, err := p.listen(c)
	if err != nil {
		return nil, err
	}
	if listener != nil {
		defer func() {
			if err != nil {
				_ = listener.Close() // nobody has come yet
			}
		}()
	}
	pool, err := p.pool(c, workers)
	if err != nil {
		return nil, err
	}
	events, err := p.eventsPool(c, workers)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s = &session{program: p, flags: c, pool: pool, events: events, store: pool, screen: newScreen(p.Stderr)}
	s.log = s.logger().Level(level)
	options := viewschema.Options{ // without what locate finds out
		Workers:       workers,
		Log:           s.log,
		Progress:      s.progress(),
		LockWait:      c.Duration("lock-wait"),
		CutTimeout:    c.Duration("cut-timeout"),
		PauseBudget:   c.Duration("pause-budget"),
		Maintenance:   c.Bool("maintenance"),
		OnError:       replay.OnError(c.String("on-error")),
		MaxParked:     c.Int("max-parked"),
		Expect:        c.StringSlice("expect"),
		WithParked:    c.Bool("with-parked"),
		StrictTypes:   c.Bool("strict-types"),
		Rehearse:      c.Bool("rehearse"),
		Throttle:      change,
		Runner:        p.runner(),
		ManualInit:    !c.Bool("auto-migrate"),
		FreeDiskQuery: c.String("free-disk-query"),
	}
	s.schema, err = viewschema.Open(pool, p.definition, options)
	if err == nil {
		err = ping(c.Context, pool)
	}
	if err == nil && events != nil {
		err = s.locate(c.Context, options)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.showPage(listener)
	return s, nil
}

func (s *session) close() {
	s.screen.draw("")
	s.page.close(s.log)
	s.pool.Close()
	if s.events != nil {
		s.events.Close()
	}
}

// answer is what a command has to say: for programs in its fields, for people in text.
type answer interface {
	text(w io.Writer, program string)
}

// answer writes a in one go, so that a reader gets all of it or an error.
func (s *session) answer(a answer) error {
	s.screen.draw("")
	var b bytes.Buffer
	if s.json {
		if err := json.NewEncoder(&b).Encode(a); err != nil {
			return fmt.Errorf("encoding the answer: %w", err)
		}
	} else {
		a.text(&b, s.name)
	}
	if _, err := s.Stdout.Write(b.Bytes()); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// locate opens the schema again, once it is known what --events-url leads to.
func (s *session) locate(ctx context.Context, o viewschema.Options) (err error) {
	if err := ping(ctx, s.events); err != nil {
		return fmt.Errorf("the server of the events: %w", err)
	}
	if o.Events, o.Standby, err = viewschema.Locate(ctx, s.pool, s.events); err != nil {
		return err
	}
	s.store = cmp.Or(o.Events, s.pool)
	switch {
	case o.Standby != nil:
		s.log.Debug().Msg("--events-url is a standby: what is settled on the primary is read there")
	case o.Events == nil:
		s.log.Warn().Msg("--events-url is the database of the view tables itself: nothing is read elsewhere")
	}
	s.schema, err = viewschema.Open(s.pool, s.definition, o)
	return err
}
