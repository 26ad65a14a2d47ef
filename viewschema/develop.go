package viewschema

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// CreateTables creates all view tables and their indexes, empty and with their plain names, and records the target version:
// for development and tests. It does nothing if the database is at the target already, and returns ErrRefused if it is at
// another version, where a migration is what is needed.
func (s *Schema) CreateTables(ctx context.Context) (Result, error) {
	if err := s.ensureInit(ctx, true); err != nil {
		return Result{}, err
	}
	current, err := s.CurrentVersion(ctx)
	if err != nil {
		return Result{}, err
	}
	result := Result{From: current, To: s.Target(), State: replay.Active, Nothing: current == s.Target()}
	if err := s.checkDirection(current); err != nil || result.Nothing {
		return result, err
	}
	if current != 0 {
		return Result{}, fmt.Errorf("%w: the database is at version %d; from there, type: migrate online", ErrRefused, current)
	}
	fp, err := s.fingerprint(ctx, s.db)
	if err != nil {
		return Result{}, err
	}
	source, err := s.source(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := checkLast(s.def.set, source); err != nil {
		return Result{}, err
	}
	m := &migration{Ledger: replay.Ledger{Schema: s.def.Schema}, to: s.Target()}
	err = s.inTx(ctx, pg.PointCreateTables, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, s.sql(`
			insert into %SCHEMA%.projector_migrations (from_version, to_version, state, fingerprint, built_at)
			values (0, $1, 'built', $2, now())
			returning id`), s.Target(), fp).Scan(&m.Migration)
		if err != nil {
			return err
		}
		if err := s.createTables(ctx, tx, tablesOf(s.def.Projectors...), ""); err != nil {
			return err
		}
		var changes []TableChange
		for _, p := range s.def.Projectors {
			for _, t := range p.Tables {
				changes = append(changes, TableChange{Table: t.TableName(), Kind: projector.KindReplay, Projector: p.Name})
				if f, ok := s.def.files[t.TableName()+".indexes.sql"]; ok {
					if err := s.runFile(ctx, tx, f, ""); err != nil {
						return err
					}
				}
			}
		}
		if err := s.recordTables(ctx, tx, m.Migration, changes); err != nil {
			return err
		}
		if err := fits(ctx, tx, s.def.set.In(s.def.Schema, ""), source); err != nil {
			return err
		}
		return s.activate(ctx, tx, m, false)
	})
	if _, constraint, ok := pg.UniqueViolation(err); ok && constraint == "projector_one_migration" {
		return Result{}, fmt.Errorf("%w; finish it, or type: migrate abort", ErrOtherMigration)
	}
	if err != nil {
		return Result{}, fmt.Errorf("creating the view tables: %w", err)
	}
	return result, nil
}

// replayInto goes range by range, so that memory holds the rows of one.
func (s *Schema) replayInto(ctx context.Context, tx, store pgx.Tx, source *eventstore.Reader, set *projections.Set, result *Result) error {
	events, err := source.Estimate(ctx, store)
	if err != nil {
		return err
	}
	layout, err := source.Layout(ctx, store)
	if err != nil {
		return err
	}
	parallel := set.Parallel()
	var parts []eventstore.Part
	if len(parallel.Projectors()) > 0 {
		if parts, err = source.Split(ctx, store, replay.BatchSize(parallel, layout, events, 1)); err != nil {
			return err
		}
	}
	run, queries := parallel.Rebuild(), replay.NewQueries(parallel, source)
	var done atomic.Int64
	began := time.Now()
	stop := replay.Report(ctx, s.opts.Progress, func() replay.Progress {
		n := done.Load()
		return replay.Progress{Phase: replay.PhaseReplay, Events: max(events, n), EventsDone: n, Elapsed: time.Since(began)}
	})
	defer stop()
	for _, part := range parts {
		if err := run.Begin(ctx, tx, nil); err != nil {
			return err
		}
		sel := eventstore.Selection{Range: part.Range}
		if err := replaySelection(ctx, store, source, sel, parallel, run, &done); err != nil {
			return err
		}
		rows, err := run.Flush()
		if err != nil {
			return err
		}
		computed, err := queries.Fill(ctx, tx, sel)
		if err != nil {
			return err
		}
		result.Rows += rows + computed
	}
	inOrder, err := replay.NewInOrder(set, source).Apply(ctx, tx, store, eventstore.Selection{})
	if err != nil {
		return err
	}
	result.Rows += inOrder.Rows
	result.Events = max(done.Load(), inOrder.Events)
	return nil
}

// replaySelection applies the events of whole aggregates, or counts them, if only queries read them.
func replaySelection(ctx context.Context, events pgx.Tx, source *eventstore.Reader, sel eventstore.Selection, set *projections.Set, run *projections.Run, done *atomic.Int64) error {
	if set.OnlySQL() {
		n, err := source.Count(ctx, events, sel)
		done.Add(n)
		return err
	}
	sel.Types, sel.AllAbove = set.Types(), 1<<63-1
	for e, err := range source.Events(ctx, events, sel) {
		if err != nil {
			return err
		}
		if err := run.Apply(&e.Raw); err != nil {
			return err
		}
		done.Add(1)
	}
	return nil
}
