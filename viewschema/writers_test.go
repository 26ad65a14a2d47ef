package viewschema_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// writers append events and project them into the live tables until stop is called.
func writers(t *testing.T, db *pgxpool.Pool, n int, seed uint64, releases ...viewschema.Definition) (stop func() []bank.Traffic) {
	t.Helper()
	var code []bank.Release
	for _, d := range releases {
		r, err := bank.NewRelease(d)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	traffic := make([]bank.Traffic, n)
	var wait sync.WaitGroup
	sets, err := bank.ShareOut(ctx, db, seed+1, n)
	if err != nil {
		t.Fatal(err)
	}
	for i, customers := range sets {
		wait.Go(func() {
			var err error
			if traffic[i], err = customers.Serve(ctx, &bank.Store{DB: db, Releases: code}); err != nil {
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	return func() []bank.Traffic {
		cancel()
		wait.Wait()
		return traffic
	}
}

// Four writers append and project at full speed through the whole migration, and go on with the next release after the
// cutover. This was seen to fail with the guard's check taken out of the writer, with the ledger's record taken out of the
// batch, and with the settling moved behind the catch-up.
func TestMigrationWhileWritersAppend(t *testing.T) {
	t.Parallel()
	for range 5 {
		seed := rand.Uint64()
		t.Run("", func(t *testing.T) {
			t.Parallel()
			t.Logf("seed %d", seed)
			db := pgtest.Database(t, atVersion1)
			stop := writers(t, db, 4, seed, v1.Definition, version2())
			s := open(t, db, version2())
			online(t, s)
			for range 2 {
				if _, err := s.CatchUp(t.Context()); err != nil {
					t.Error(err)
				}
			}
			verify(t, db, 1)
			r, err := s.MigrateOffline(t.Context())
			if err != nil {
				t.Error(err)
			}
			t.Logf("writers were held off for %s", r.HeldOff)
			for i, w := range stop() {
				t.Logf("writer %d: %d events, longest gap between two commits %s", i, w.Events, w.LongestGap)
				if w.Events == 0 {
					t.Errorf("writer %d has written nothing", i)
				}
			}
			verify(t, db, 2)
		})
	}
}
