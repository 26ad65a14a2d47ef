package crashtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pgtest"
)

// One of several processes is killed in the middle of a batch, when each of them holds one. The others do its batch, too,
// and without any time-out: the shortest is longer than this test may take. With four, this was seen to fail with
// batches claimed without a lock.
func TestOtherWorkersTakeOver(t *testing.T) {
	t.Parallel()
	for _, processes := range []int{2, 4} {
		t.Run(fmt.Sprint(processes), func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, manyBatches)
			gate, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer gate.Release()
			execute(t, db, noSlowness+`create function public.obstacle() returns boolean language plpgsql as $$
				begin perform pg_advisory_xact_lock_shared(1); return true; end $$`)
			if _, err := gate.Exec(t.Context(), "select pg_advisory_lock(1)"); err != nil {
				t.Fatal(err)
			}

			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			workers := make([]*command, processes)
			for i := range workers {
				fault := ""
				if i == 0 {
					fault = "before:batch"
				}
				workers[i] = newCommand(ctx, db, "obstacle", fault, "--workers", "1", "migrate", "online")
				if err := workers[i].Start(); err != nil {
					t.Fatal(err)
				}
			}
			awaitAtGate(ctx, t, db, processes)
			if _, err := gate.Exec(ctx, "select pg_advisory_unlock(1)"); err != nil {
				t.Fatal(err)
			}
			for i, w := range workers {
				_ = w.Wait() // see killed
				if w.killed(t) != (i == 0) || ctx.Err() != nil {
					t.Errorf("process %d: %s", i, w.ProcessState)
				}
			}
			var replayed, events int64
			if err := db.QueryRow(t.Context(), `
				select (select sum(events) from view_schema.projector_batches where migration_id = max(m.id)), (select count(*) from events)
				from view_schema.projector_migrations m`).Scan(&replayed, &events); err != nil || replayed != events {
				t.Errorf("%d events were replayed, of %d; %v", replayed, events, err)
			}
			if exit, _, stderr := exits(t, db, "obstacle", "migrate", "offline"); exit != 0 {
				t.Fatalf("exit code %d\n%s", exit, stderr)
			}
			verify(t, db, 2)
		})
	}
}

// A process is killed while the server is busy with its batch, which is one long statement in SQL: the server notices, and
// another process does the batch. Seen to fail without client_connection_check_interval.
func TestKilledInMidStatement(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	gate, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Release()
	execute(t, db, `create function public.obstacle() returns boolean language plpgsql as $$
		begin
			if current_setting('transaction_read_only') = 'off' then perform pg_advisory_xact_lock_shared(1); end if;
			return true;
		end $$`)
	if _, err := gate.Exec(t.Context(), "select pg_advisory_lock(1)"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	worker := newCommand(ctx, db, "obstacle in SQL", "", "--workers", "1", "migrate", "online")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	awaitAtGate(ctx, t, db, 1)
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = worker.Wait() // see killed
	if !worker.killed(t) {
		t.Errorf("the worker: %s", worker.ProcessState)
	}
	awaitAtGate(ctx, t, db, 0)
	if _, err := gate.Exec(ctx, "select pg_advisory_unlock(1)"); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"online", "offline"} {
		if exit, _, stderr := exits(t, db, "obstacle in SQL", "migrate", command); exit != 0 {
			t.Fatalf("exit code %d\n%s", exit, stderr)
		}
	}
	verify(t, db, 2, "accounts", "transactions")
}

// manyBatches is a database at version 1 with a batch for each of several workers.
func manyBatches(ctx context.Context, conn *pgx.Conn) error { return atVersion1With(ctx, conn, 12_000) }

// awaitAtGate returns when so many sessions wait for the gate to open.
func awaitAtGate(ctx context.Context, t *testing.T, db *pgxpool.Pool, sessions int) {
	t.Helper()
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		var n int
		if err := db.QueryRow(ctx, `
			select count(*)
			from pg_locks
			where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == sessions {
			return
		}
	}
}

func execute(t *testing.T, db *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}
