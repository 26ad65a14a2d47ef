package soak

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
)

var (
	length = flag.Duration("length", 0, "for how long to migrate, though not less than ten times; 0 is not at all")
	seed   = flag.Uint64("seed", 0, "of the customers and the kills; 0 is a random one")
)

const (
	events           = 20_000 // when the first release goes live
	writers          = 2
	fewestMigrations = 10
	mostKills        = 6               // of one command
	patience         = 5 * time.Minute // with a command that nobody kills
)

// soak is a bank in the middle of its migrations.
type soak struct {
	*testing.T
	db     *pgxpool.Pool
	random *rand.Rand
	usual  map[string]time.Duration // how long a command takes, from the start of its process to its end
	kills  int                      // in this migration
}

// This was seen to fail with a cut that does not wait for writers, and with a ledger that records nothing: each within
// the first migrations.
func TestSoak(t *testing.T) {
	if *length == 0 {
		t.Skip("type: make soak")
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	end := time.Now().Add(*length)
	s := &soak{T: t, db: pgtest.Database(t, filledStore), random: rand.New(rand.NewPCG(*seed, 0)), usual: map[string]time.Duration{}}
	for _, command := range []string{"migrate online", "migrate catchup", "migrate offline"} {
		if s.run(t.Context(), 1, command, patience) {
			t.Fatalf("%s has not ended within %s", command, patience)
		}
	}

	last := 1 + fewestMigrations + int(length.Seconds()) // a migration takes a second at the least
	ctx, stop := s.serve(releases(t, last))
	version := 1
	for version < last && (version <= fewestMigrations || time.Now().Before(end)) {
		version++
		s.migrate(ctx, version)
		s.report(version)
		s.dropArchived(version - 1)
	}
	appended := stop()
	t.Logf("in the end, with the customers gone: %d events, %d of them appended meanwhile, and all %d rows as they should be",
		events+appended, appended, s.verify(version))
}

func filledStore(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, bank.EventTable); err != nil {
		return err
	}
	return bank.Fill(ctx, conn, events, *seed)
}

// serve lets customers act until stop is called. The context ends when they fail.
func (s *soak) serve(releases []bank.Release) (ctx context.Context, stop func() (events int64)) {
	ctx, cancel := context.WithCancelCause(s.Context())
	var serving sync.WaitGroup
	var appended atomic.Int64
	sets, err := bank.ShareOut(ctx, s.db, *seed+1, writers)
	if err != nil {
		s.Fatal(err)
	}
	for _, customers := range sets {
		serving.Go(func() {
			traffic, err := customers.Serve(ctx, &bank.Store{DB: s.db, Releases: releases})
			if err != nil {
				s.Errorf("writer: %v", err)
				cancel(errors.New("a writer has failed"))
			}
			appended.Add(traffic.Events)
		})
	}
	s.Cleanup(serving.Wait) // before the database goes
	return ctx, func() (events int64) {
		cancel(nil)
		serving.Wait()
		return appended.Load()
	}
}

// migrate brings the bank to the version, with the odd change of mind. Each command is killed again and again, at random
// moments, and in the end left alone.
func (s *soak) migrate(ctx context.Context, version int) {
	commands := []string{"migrate online", "migrate catchup", "migrate offline"}
	if s.random.IntN(4) == 0 {
		commands = append([]string{"migrate online", "migrate abort --yes"}, commands...)
	}
	s.kills = 0
	for _, command := range commands {
		for kills := 0; ; kills++ {
			moment := patience
			if kills < mostKills {
				usual := max(s.usual[command], 100*time.Millisecond)
				moment = time.Duration(s.random.Int64N(2 * int64(usual)))
			}
			if !s.run(ctx, version, command, moment) {
				break
			}
			if kills == mostKills {
				s.Fatalf("version %d: %s has not ended within %s", version, command, patience)
			}
			s.kills++
		}
	}
}

// run runs a command of a release as a process of its own, and says whether it had to be killed at the moment. That it fails
// by itself is an error.
func (s *soak) run(ctx context.Context, version int, command string, moment time.Duration) (killed bool) {
	killer, cancel := context.WithTimeout(ctx, moment) // which kills with SIGKILL
	defer cancel()
	c := exec.CommandContext(killer, os.Args[0], strings.Fields(command)...)
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d", asRelease, version), "DATABASE_URL="+s.db.Config().ConnString())
	var output bytes.Buffer
	c.Stdout, c.Stderr = &output, &output
	began := time.Now()
	err := c.Run()
	if ctx.Err() != nil {
		s.Fatal(context.Cause(ctx))
	}
	if err == nil {
		s.usual[command] = time.Since(began)
		return false
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if ok {
		status, _ := exit.Sys().(syscall.WaitStatus)
		ok = status.Signaled() && status.Signal() == syscall.SIGKILL
	} else {
		ok = killer.Err() != nil // before it began
	}
	if !ok {
		s.Fatalf("version %d: %s: %v\n%s", version, command, err, &output)
	}
	return true
}

// report compares all rows and says how the migration to the version went.
func (s *soak) report(version int) {
	rows := s.verify(version)
	var events int64
	var heldOff time.Duration
	err := s.db.QueryRow(s.Context(), `
		select (select count(*) from events), held_off
		from view_schema.projector_migrations
		where state = 'active' and to_version = $1`, version).Scan(&events, &heldOff)
	if err != nil {
		s.Fatalf("version %d: %v", version, err)
	}
	s.Logf("version %d: %d kills, %d events, all %d rows as they should be, writers held off for %s", version, s.kills, events, rows, heldOff.Round(time.Millisecond))
}

// verify holds the live tables against a replay by hand.
func (s *soak) verify(version int) (rows int64) {
	tables, err := bank.Verify(s.Context(), s.db, shape(version))
	if err != nil {
		s.Fatalf("version %d: %v", version, err)
	}
	for _, c := range tables {
		rows += c.Rows
		if !c.Same() || c.Rows == 0 {
			s.Fatalf("version %d: %s", version, c)
		}
	}
	return rows
}

// dropArchived drops what the version left behind, as an operator does by hand.
func (s *soak) dropArchived(version int) {
	_, err := s.db.Exec(s.Context(), fmt.Sprintf("drop table view_schema.accounts_%d; drop table if exists view_schema.transactions_%[1]d, view_schema.transfers_%[1]d", version))
	if err != nil {
		s.Fatal(err)
	}
}
