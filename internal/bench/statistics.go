package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// ledger counts what a rebuild leaves in the ledger, and what it has ever written there.
func (b *bench) ledger(ctx context.Context) error {
	database, err := b.store(ctx, b.events)
	if err != nil {
		return err
	}
	if _, err := b.rebuild(ctx, asBank, database, b.events); err != nil {
		return err
	}
	rows, err := query[int64](ctx, b, database, "select count(*) from view_schema.projector_replayed_ids")
	if err != nil {
		return err
	}
	// That the batches have been counted is the sign that all statistics have arrived.
	written, err := b.settled(ctx, database, `
		select case when bool_or(relname = 'projector_batches' and n_tup_ins > 0)
			then sum(n_tup_ins) filter (where relname = 'projector_replayed_ids') else -1 end::bigint
		from pg_stat_all_tables
		where schemaname = 'view_schema'`)
	if err != nil {
		return err
	}
	b.report.add(row{
		Row: 9, What: "ledger rows per event of a rebuild that meets no new events",
		Measured: float64(max(rows, written)) / float64(b.events), Must: new(0.0), Aim: new(0.0),
	})
	return nil
}

// settled polls a number of PostgreSQL's statistics, which arrive late, until it has been at least 0 and the same for a second.
func (b *bench) settled(ctx context.Context, database, sql string) (int64, error) {
	const interval, enough, most = 100 * time.Millisecond, 10, 300
	tick := time.NewTicker(interval)
	defer tick.Stop()
	former, same := int64(-1), 0
	for range most {
		value, err := query[int64](ctx, b, database, sql)
		if err != nil {
			return 0, err
		}
		if value != former || value < 0 {
			former, same = value, 0
		} else if same++; same == enough {
			return value, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
	return 0, fmt.Errorf("PostgreSQL's statistics do not settle: %s", sql)
}

// blocksRead is the last row: it leaves the server with little memory.
func (b *bench) blocksRead(ctx context.Context) error {
	const memory = 64 // MiB
	database, err := b.store(ctx, b.events)
	if err != nil {
		return err
	}
	if err := b.shrink(ctx, database, fmt.Sprintf("%dMB", memory)); err != nil {
		return err
	}
	const read = "select heap_blks_read from pg_statio_user_tables where relid = 'public.events'::regclass"
	before, err := b.settled(ctx, database, read)
	if err != nil {
		return err
	}
	o, err := b.rebuild(ctx, asBank, database, b.events)
	if err != nil {
		return err
	}
	after, err := b.settled(ctx, database, read)
	if err != nil {
		return err
	}
	size, err := query[int64](ctx, b, database, "select pg_relation_size('public.events')")
	if err != nil {
		return err
	}
	block, err := query[int64](ctx, b, database, "select current_setting('block_size')::bigint")
	if err != nil {
		return err
	}
	b.report.add(row{
		Row: 10, What: fmt.Sprintf("blocks read of an event table of %.0f MiB, with caches of %d MiB, ÷ its blocks", mebibytes(size), memory),
		Measured: float64(after-before) / float64(size/block), Must: new(2.0),
	})
	b.report.Notes = append(b.report.Notes, fmt.Sprintf("row 10: the rebuild takes %.2f s", o.Wall.Seconds()))
	return b.notePlan(ctx, 10, contender{"a large table", database, asBank})
}

// shrink starts the server anew with small caches.
func (b *bench) shrink(ctx context.Context, database, memory string) error {
	b.say("starting PostgreSQL anew with shared_buffers and effective_cache_size of %s", memory)
	err := b.exec(ctx, database, "alter system set shared_buffers = '"+memory+"'",
		"alter system set effective_cache_size = '"+memory+"'", "checkpoint")
	if err != nil {
		return err
	}
	return b.server.Crash(ctx)
}

// notePlan keeps what the plan says about reading.
func (b *bench) notePlan(ctx context.Context, row int, c contender) error {
	if err := b.reset(ctx, c.database); err != nil {
		return err
	}
	plan, _, err := b.command(ctx, c.worker, b.server.URL(c.database), fmt.Sprintf("--workers=%d", b.workers), "plan")
	for line := range strings.Lines(plan) {
		if strings.HasPrefix(line, "read") {
			b.report.Notes = append(b.report.Notes, fmt.Sprintf("row %d, %s, says the plan: %s", row, c.what, strings.Join(strings.Fields(line), " ")))
		}
	}
	return err
}
