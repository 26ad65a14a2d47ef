package viewschema

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/nearest"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// Part is a part of the view schema. The zero Part is all of it.
type Part struct {
	Projectors []string // their names, or those of their tables; none: all
	Aggregates []string // ids of aggregates; none: all
}

// ReplayAll is ReplayPart of everything.
func (s *Schema) ReplayAll(ctx context.Context) (Result, error) { return s.ReplayPart(ctx, Part{}) }

// ReplayPart empties live view tables, or deletes from them the rows of some aggregates, and fills them again from the events,
// in one transaction that holds off readers and writers: for development and tests. Rows that several aggregates make stay as they
// are if some aggregates are replayed: those of totals, and of projectors with another order than ByAggregate. It returns ErrState
// if the database is not at the target version, and ErrDefinition if the part has a name that the definition does not know.
func (s *Schema) ReplayPart(ctx context.Context, part Part) (Result, error) {
	ps, err := s.def.named(part.Projectors)
	if err != nil {
		return Result{}, err
	}
	return s.live(ctx, func(ctx context.Context, source *eventstore.Reader, result *Result) error {
		ids, err := parseIDs(source, part.Aggregates)
		if err != nil {
			return err
		}
		set := s.def.set.Only(ps...).In(s.def.Schema, "")
		if ids != nil {
			if set, err = byAggregate(set, len(part.Projectors) > 0); err != nil {
				return err
			}
		}
		return s.inBoth(ctx, pg.PointReplay, func(tx, events pgx.Tx) error {
			if err := s.holdLive(ctx, tx, events, source); err != nil {
				return err
			}
			if ids != nil {
				return replayAggregates(ctx, tx, events, source, set, ids, result)
			}
			var quoted []string
			for _, t := range tablesOf(ps...) {
				quoted = append(quoted, pg.Table(s.def.Schema, t))
			}
			if _, err := tx.Exec(ctx, "truncate table "+strings.Join(quoted, ", ")+" restart identity"); err != nil {
				return fmt.Errorf("emptying the view tables: %w", err)
			}
			if err := s.replayInto(ctx, tx, events, source, set, result); err != nil || len(part.Projectors) > 0 {
				return err
			}
			return s.forgetParked(ctx, tx)
		})
	})
}

// byAggregate leaves projectors out that are replayed in the order of the store, of which an aggregate has no rows of its own. Those
// that were asked for by name are refused.
func byAggregate(set *projections.Set, named bool) (*projections.Set, error) {
	if ordered := set.Ordered(); named && len(ordered) > 0 {
		return nil, fmt.Errorf("%w: projector %s is replayed in the order of the store, and not by aggregate; replay all of it, without --aggregate",
			ErrRefused, ordered[0].Projectors()[0].Name)
	}
	return set.Parallel(), nil
}

// live runs what works on the live tables of the target version.
func (s *Schema) live(ctx context.Context, run func(ctx context.Context, source *eventstore.Reader, result *Result) error) (Result, error) {
	began := time.Now()
	if err := s.ensureInit(ctx, false); err != nil {
		return Result{}, err
	}
	current, err := s.CurrentVersion(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := s.checkDirection(current); err != nil {
		return Result{}, err
	}
	if current != s.Target() {
		begin := "tables create"
		if current > 0 {
			begin = "migrate online"
		}
		return Result{}, fmt.Errorf("%w: the database is at version %d and the definition at %d; begin with: %s", ErrState, current, s.Target(), begin)
	}
	source, err := s.source(ctx)
	if err != nil {
		return Result{}, err
	}
	result := Result{From: current, To: current, State: replay.Active}
	err = s.whileRoom(ctx, func(ctx context.Context) error { return run(ctx, source, &result) })
	if err != nil {
		return Result{}, fmt.Errorf("replaying: %w", err)
	}
	result.Elapsed = time.Since(began)
	return result, nil
}

// holdLive holds off writers and makes sure that the live tables are the definition's: a cutover may have been faster.
func (s *Schema) holdLive(ctx context.Context, tx, events pgx.Tx, source *eventstore.Reader) error {
	if err := source.HoldWriters(ctx, events); err != nil {
		return err
	}
	if now, err := s.currentVersion(ctx, tx); err != nil || now != s.Target() {
		return errors.Join(err, fmt.Errorf("%w: the database is at version %d now", ErrState, now))
	}
	return nil
}

// named returns the projectors of these names or with tables of these names, in the definition's order; of no names, all.
func (c *definition) named(list []string) ([]*projections.Projector, error) {
	if len(list) == 0 {
		return c.Projectors, nil
	}
	known := map[string]*projections.Projector{}
	maps.Copy(known, c.owners)
	for _, p := range c.Projectors {
		known[p.Name] = p
	}
	wanted := map[*projections.Projector]bool{}
	var errs []error
	for _, name := range list {
		p, ok := known[name]
		if !ok {
			errs = append(errs, fmt.Errorf("%w: no projector and no table is named %s%s", ErrDefinition, name, nearest.DidYouMean("", name, maps.Keys(known))))
		}
		wanted[p] = true
	}
	ps := slices.DeleteFunc(slices.Clone(c.Projectors), func(p *projections.Projector) bool { return !wanted[p] })
	return ps, errors.Join(errs...)
}

func parseIDs(source *eventstore.Reader, list []string) (ids []projections.ID, err error) {
	for _, text := range list {
		id, err := source.ParseID(text)
		if err == nil && id.IsZero() {
			err = errors.New("an aggregate id is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// replayAggregates makes the rows of some aggregates anew. What other aggregates have in the tables stays, and what they have added to
// totals, in which their events are already.
func replayAggregates(ctx context.Context, tx, events pgx.Tx, source *eventstore.Reader, set *projections.Set, ids []projections.ID, result *Result) error {
	run := set.CatchUp()
	run.LeaveTotals()
	if err := run.Begin(ctx, tx, ids); err != nil {
		return err
	}
	if _, err := run.Forget(); err != nil {
		return err
	}
	if err := run.Begin(ctx, tx, ids); err != nil {
		return err
	}
	var history []projections.Raw // the run wants them to stay until it has flushed
	for e, err := range source.Events(ctx, events, eventstore.Selection{Aggregates: ids}) {
		if err != nil {
			return err
		}
		history = append(history, e.Clone())
	}
	for i := range history {
		if err := run.Apply(&history[i]); err != nil {
			return err
		}
	}
	rows, err := run.Flush()
	if err != nil {
		return err
	}
	computed, err := replay.NewQueries(set, source).Replace(ctx, tx, ids)
	result.Events, result.Rows = int64(len(history)), rows+computed
	return err
}
