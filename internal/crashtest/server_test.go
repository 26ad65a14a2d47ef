package crashtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pglocal"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// A killed session makes PostgreSQL end all others and recover; a killed postmaster takes a new one. Both happen once before
// and once after each kind of commit of a migration, which goes on by itself as soon as the server is back. Here fsync is
// on, so what recovery brings back is what was committed, without the groups of a catch-up. This was seen to fail without the
// retry after a lost connection, and without the count before the cut moves.
func TestPostgresKilled(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(t *testing.T, s *pglocal.Server){"session": killSession, "postmaster": killPostmaster} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, url := privateDatabase(t)
			n := 0
			migrateThrough(t, url, func(moment pg.Moment, point pg.Point) {
				n++
				kill(t, server)
			})
			t.Logf("killed %d times", n)
		})
	}
}

// All sessions of a worker are cut once before and once after each kind of commit. This was seen to fail without the retry
// after a lost connection.
func TestConnectionsCut(t *testing.T) {
	t.Parallel()
	url := pgtest.DatabaseURL(t, atVersion1)
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.WithoutCancel(t.Context()))
	migrateThrough(t, url, func(moment pg.Moment, point pg.Point) {
		var cut int
		err := admin.QueryRow(t.Context(), `
			select count(*) filter (where pg_terminate_backend(pid, 5000))
			from pg_stat_activity
			where application_name = 'projector' and datname = current_database()`).Scan(&cut)
		if err != nil || cut == 0 {
			t.Errorf("%s %s: cut %d sessions, %v", moment, point, cut, err)
		}
	})
}

// step is a command of a migration, and the commits at which it is to be disturbed.
type step struct {
	run    func(*viewschema.Schema, context.Context) (viewschema.Result, error)
	points []pg.Point
}

// The beginning is left out: there is nothing yet to go on with.
var steps = []step{
	{(*viewschema.Schema).MigrateOnline, []pg.Point{pg.PointBatch, pg.PointBuilt}},
	{(*viewschema.Schema).CatchUp, []pg.Point{pg.PointList, pg.PointGroup, pg.PointCut}},
	{(*viewschema.Schema).MigrateOffline, []pg.Point{pg.PointCut, pg.PointCutover}},
}

// migrateThrough takes a database from version 1 to version 2 and calls fault the first time that each step comes to each
// moment of its commits. The steps have to go on by themselves.
func migrateThrough(t *testing.T, url string, fault func(pg.Moment, pg.Point)) {
	t.Helper()
	migrateOver(t, url, func(*pgxpool.Config) {}, []pg.Moment{pg.Before, pg.After}, fault)
}

// migrateOver is the same over connections of one's own, and at some moments.
func migrateOver(t *testing.T, url string, configure func(*pgxpool.Config), moments []pg.Moment, fault func(pg.Moment, pg.Point)) {
	t.Helper()
	for n, step := range steps {
		await(t, url) // the step before may have ended with a fault
		if n > 0 {
			appendEvents(t, url, twoGroups, uint64(n+2))
		}
		var mu sync.Mutex
		left := map[string]bool{}
		for _, point := range step.points {
			for _, moment := range moments {
				left[fmt.Sprint(moment, point)] = true
			}
		}
		ctx := pg.WithFault(t.Context(), func(moment pg.Moment, point pg.Point) {
			mu.Lock() // one after the other
			defer mu.Unlock()
			if key := fmt.Sprint(moment, point); left[key] {
				delete(left, key)
				fault(moment, point)
			}
		})
		o := viewschema.Options{Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)}
		s, err := viewschema.Open(connect(t, url, "projector", configure), version2(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := step.run(s, ctx); err != nil {
			t.Fatal(err)
		}
		if len(left) > 0 {
			t.Errorf("step %d did not come to %v", n, left)
		}
	}
	await(t, url)
	verify(t, connect(t, url, "test"), 2)
}

// await returns when the server accepts connections.
func await(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		conn, err := pgx.Connect(ctx, url)
		if err == nil {
			_ = conn.Close(ctx) // it was there
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// privateDatabase is at version 1, on a server of its own, which the test may kill.
func privateDatabase(t *testing.T) (*pglocal.Server, string) {
	t.Helper()
	// What is committed without waiting for the disk is lost for sure.
	settings := map[string]string{"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
	server := pgtest.Server(t, atVersion1, pglocal.Options{Durable: true, Settings: settings})
	return server, server.URL("")
}

// killSession kills a session, one that is in a transaction if there is any, and returns when PostgreSQL has ended all. The server may
// still be recovering from the session that another worker was at a moment ago: then ours may be gone already.
func killSession(t *testing.T, s *pglocal.Server) {
	await(t, s.URL(""))
	conn, err := pgx.Connect(t.Context(), s.URL(""))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(t.Context())
	var pid int
	err = conn.QueryRow(t.Context(), `
		select pid
		from pg_stat_activity
		where application_name = 'projector'
		order by state = 'idle in transaction' desc
		limit 1`).Scan(&pid)
	if errors.Is(err, pgx.ErrNoRows) {
		return
	}
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := conn.Exec(t.Context(), "select pg_sleep(60)"); err == nil {
		t.Error("a session outlived one that was killed")
	}
}

func killPostmaster(t *testing.T, s *pglocal.Server) {
	if err := s.Crash(t.Context()); err != nil {
		t.Error(err)
	}
}
