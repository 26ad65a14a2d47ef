package replay_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// process takes a migration from step to step. Cutover may fail with a lock time-out or a lost connection, and is then
// called again.
type process interface {
	begin(ctx context.Context, patient bool) error
	run(ctx context.Context) error
	catchUp(ctx context.Context, patient bool) error
	cutover(ctx context.Context) error
}

// parts does what package viewschema does, with the parts of package replay: cheaper, and with as many batches and groups
// as are wanted.
type parts struct {
	job     *replay.Job // of all processes
	db      *pgxpool.Pool
	workers int
	bounds  []string // between batches
	merged  []string // tables
	reason  string   // why the first cut has to be 0; empty: it must not be, unless writers are open
	count   func(what string)
}

func (w *world) parts() *parts {
	p := &parts{
		job: &replay.Job{Ledger: replay.Ledger{Schema: "view_schema"}, Version: 1, Projections: w.projections, Source: w.source, Events: w.events},
		db:  w.db, workers: 1, count: func(string) {},
	}
	if w.parks {
		p.job.OnError = replay.Park
	}
	// The side table is there for all migrations, so it is emptied and not dropped.
	p.job.Merge = func(ctx context.Context, tx pgx.Tx, table string) (int64, error) {
		target := w.projections.Totals()[0]
		tag, err := tx.Exec(ctx, target.Merge())
		if err == nil {
			_, err = tx.Exec(ctx, "delete from view_schema."+target.Partial)
		}
		return tag.RowsAffected(), err
	}
	for _, target := range w.projections.Totals() {
		p.merged = append(p.merged, target.Table)
	}
	if w.kind == cached {
		p.reason = "cache 3"
	}
	return p
}

// on is another process.
func (p *parts) on(db *pgxpool.Pool) *parts {
	other := *p
	other.db, other.workers, other.count = db, 1, func(string) {}
	return &other
}

func (p *parts) here() *replay.Job {
	job := *p.job
	job.DB, job.Workers = p.db, p.workers
	return &job
}

func wait(patient bool) eventstore.Wait {
	if patient {
		return eventstore.Wait{}
	}
	return eventstore.Wait{Limit: impatience}
}

func (p *parts) begin(ctx context.Context, patient bool) error {
	cut, err := p.job.Source.Settle(ctx, cmp.Or(p.job.Events, p.db), wait(patient))
	if err != nil && !errors.Is(err, eventstore.ErrUnsettled) {
		return err
	}
	if err == nil && ((cut.Reason == "") != (p.reason == "") || !strings.Contains(cut.Reason, p.reason)) {
		return fmt.Errorf("cut %+v, and the reason should be %q", cut, p.reason)
	}
	var ranges []eventstore.Part
	var last eventstore.Part
	for _, b := range p.bounds {
		last.To = projections.Text(b)
		ranges = append(ranges, last)
		last = eventstore.Part{Range: eventstore.Range{From: last.To}}
	}
	return p.here().Retry(ctx, pg.PointBegin, func(tx pgx.Tx) error {
		tables, err := p.job.Source.Tables(ctx, tx)
		if err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			insert into view_schema.projector_migrations (from_version, to_version, state, cut, event_tables, fingerprint)
			values (0, 1, 'building', $1, $2, '{}')
			returning id`, cut.Position, tables).Scan(&p.job.Migration)
		if err != nil {
			return err
		}
		parts := append(slices.Clone(ranges), last)
		if len(p.job.Projections.Parallel().Projectors()) == 0 {
			parts = nil
		}
		return p.here().Prepare(ctx, tx, parts, p.merged, nil, nil)
	})
}

func (p *parts) run(ctx context.Context) error {
	for {
		_, err := p.here().Run(ctx)
		if err == nil {
			break
		}
		if !pg.IsConnectionLost(err) {
			return err
		}
	}
	return p.here().Retry(ctx, pg.PointBuilt, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "update view_schema.projector_migrations set state = 'built' where state = 'building'")
		return err
	})
}

func (p *parts) catchUp(ctx context.Context, patient bool) error {
	pass, err := p.here().CatchUp(ctx, wait(patient))
	if err == nil && !pass.Settled {
		p.count("catch-ups that leave the old cut")
	}
	return err
}

func (p *parts) cutover(ctx context.Context) error {
	if p.job.Events == nil {
		return p.swap(ctx, nil)
	}
	swapped := false
	err := pg.InTx(ctx, p.job.Events, pg.PointList, func(events pgx.Tx) error {
		if _, err := events.Exec(ctx, "set local lock_timeout = '1ms'"); err != nil {
			return err
		}
		err := p.swap(ctx, events)
		swapped = err == nil
		return err
	})
	if swapped {
		return nil // the session with the lock was ended when it was about to let go
	}
	return err
}

// swap holds off writers in the transaction events, or its own.
func (p *parts) swap(ctx context.Context, events pgx.Tx) error {
	return pg.InTx(ctx, p.db, pg.PointCutover, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local lock_timeout = '1ms'"); err != nil {
			return err
		}
		cut, err := p.job.Own(ctx, tx, replay.Built)
		if err != nil {
			return err
		}
		if err := p.job.Source.HoldWriters(ctx, cmp.Or(events, tx)); err != nil {
			return err
		}
		if _, err := p.here().Finish(ctx, tx, cut); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "update view_schema.projector_migrations set state = 'active'"); err != nil || events == nil {
			return err
		}
		_, err = events.Exec(ctx, "select") // the lock is still held
		return err
	})
}
