package crashtest

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
)

// lives is how many migrations are killed side by side, and killsPerLife how often each at the least; a new migration
// begins where one ends too early. With those of TestKilledAtEveryCommit it is more than a hundred kills.
const lives, killsPerLife = 2, 40

// Each command is killed at random moments until it gets through, while a writer appends and projects, first with version
// 1's code and then with version 2's. This was seen to fail with the ledger of a batch written in a transaction before that
// of the rows, and with that of a catch-up.
func TestKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	usual := durations(t)
	before := kills.Load()
	began := time.Now()
	t.Cleanup(func() { // after all lives
		n := kills.Load() - before // those of the tests beside this one included
		t.Logf("%d kills in %s", n, time.Since(began).Round(time.Second))
		if n < lives*killsPerLife {
			t.Errorf("%d kills; want %d", n, lives*killsPerLife)
		}
	})
	for range lives {
		seed := rand.Uint64()
		t.Run("", func(t *testing.T) {
			t.Parallel()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			for n := 0; n < killsPerLife && !t.Failed(); {
				n += killedLife(t, random, usual)
			}
		})
	}
}

var life = []string{"migrate online", "migrate catchup", "migrate offline"}

// durations measures how long each command of a migration takes, from the start of the process to its end.
func durations(t *testing.T) map[string]time.Duration {
	t.Helper()
	db := pgtest.Database(t, atVersion1)
	usual := map[string]time.Duration{}
	for _, line := range life {
		c := newCommand(t.Context(), db, "plain", "", strings.Fields(line)...)
		began := time.Now()
		if err := c.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, &c.stderr)
		}
		usual[line] = time.Since(began)
	}
	return usual
}

// killedLife migrates a database to version 2 and returns how often it killed a command on the way.
func killedLife(t *testing.T, random *rand.Rand, usual map[string]time.Duration) (n int) {
	t.Helper()
	db := pgtest.Database(t, atVersion1)
	stop := serve(t, db, random.Uint64())
	for _, line := range life {
		limit := usual[line]
		for killedAfter(t, db, line, time.Duration(random.Int64N(int64(limit)))) {
			n++
			limit += usual[line] / 4 // on a busy machine it takes longer than it did
		}
	}
	if traffic := stop(); traffic.Events == 0 {
		t.Error("the writer has written nothing")
	}
	if got := state(t, db); got != "version 2" {
		t.Errorf("in the end: %s", got)
	}
	return n
}

// killedAfter runs a command and kills it at the moment, unless it is faster. A command that fails by itself is an error,
// and not tried again.
func killedAfter(t *testing.T, db *pgxpool.Pool, line string, moment time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), moment)
	defer cancel()
	c := newCommand(ctx, db, "plain", "", strings.Fields(line)...)
	if err := c.Start(); err != nil {
		return ctx.Err() != nil // over before it began
	}
	_ = c.Wait() // see killed
	return c.killed(t)
}

// serve lets customers act on the store until stop is called.
func serve(t *testing.T, db *pgxpool.Pool, seed uint64) (stop func() bank.Traffic) {
	t.Helper()
	sets, err := bank.ShareOut(t.Context(), db, seed, 1)
	if err != nil {
		t.Fatal(err)
	}
	customers := sets[0]
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bank.Traffic, 1)
	store := &bank.Store{DB: db, Releases: releases(t)}
	go func() {
		traffic, err := customers.Serve(ctx, store)
		if err != nil {
			t.Errorf("writer: %v", err)
		}
		ended <- traffic
	}()
	return func() bank.Traffic {
		cancel()
		return <-ended
	}
}
