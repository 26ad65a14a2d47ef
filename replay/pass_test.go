package replay_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/replay"
)

func TestChooseBatches(t *testing.T) {
	t.Parallel()
	even := []int64{10, 10, 10, 10, 10, 10, 10, 10}
	for name, c := range map[string]struct {
		estimates          []int64
		ours, theirs, done []int
		want               []int
	}{
		"from the start":                     {even, nil, nil, nil, []int{1, 2, 3}},
		"after our own":                      {even, []int{1, 2, 3}, nil, nil, []int{4, 5, 6}},
		"the longest run":                    {even, nil, nil, []int{3}, []int{4, 5, 6}},
		"what is left":                       {even, []int{4, 5, 6, 7, 8}, nil, []int{1, 3}, []int{2}},
		"half of what another one heads for": {even, nil, []int{1}, nil, []int{5, 6, 7}},
		"the last before another one":        {even, []int{3, 4, 5, 6, 7, 8}, []int{1}, nil, []int{2}},
		"nothing":                            {even, []int{1, 2, 3, 4}, []int{5, 6, 7, 8}, nil, nil},
		"a large one first":                  {[]int64{10, 10, 10, 10, 70, 10}, nil, nil, nil, []int{5}},
		"the larger of two":                  {[]int64{30, 10, 10, 10, 70, 10}, nil, nil, nil, []int{5}},
	} {
		if got := replay.ChooseBatches(25, c.estimates, c.ours, c.theirs, c.done); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestPasses(t *testing.T) {
	t.Parallel()
	const gb = 1 << 30
	for name, c := range map[string]struct {
		layout  eventstore.Layout
		workers int
		want    int
	}{
		"empty":                 {eventstore.Layout{Cache: 4 * gb, Indexed: true}, 2, 2},
		"in memory":             {eventstore.Layout{Bytes: gb, Cache: 4 * gb, Rows: 6_000_000, Indexed: true}, 2, 8},
		"workers share alike":   {eventstore.Layout{Bytes: gb, Cache: 4 * gb, Rows: 6_000_000, Indexed: true}, 5, 10},
		"no index":              {eventstore.Layout{Bytes: gb, Cache: 4 * gb, Rows: 6_000_000}, 2, 4},
		"small, no index":       {eventstore.Layout{Bytes: gb, Cache: 4 * gb, Rows: 600_000}, 2, 2},
		"larger, no index":      {eventstore.Layout{Bytes: 100 * gb, Cache: 4 * gb, Rows: 400_000_000, Correlation: 1}, 16, 2},
		"larger, random ids":    {eventstore.Layout{Bytes: 100 * gb, Cache: 4 * gb, Rows: 400_000_000, Indexed: true}, 2, 2},
		"and many workers":      {eventstore.Layout{Bytes: 100 * gb, Cache: 4 * gb, Rows: 400_000_000, Indexed: true}, 16, 2},
		"larger, ordered ids":   {eventstore.Layout{Bytes: 100 * gb, Cache: 4 * gb, Rows: 400_000_000, Indexed: true, Correlation: -1}, 2, 534},
		"larger, nearly so":     {eventstore.Layout{Bytes: 100 * gb, Cache: 4 * gb, Rows: 400_000_000, Indexed: true, Correlation: 0.9}, 2, 6},
		"few large events":      {eventstore.Layout{Bytes: 100 * gb, Cache: 4 * gb, Rows: 13_000_000, Indexed: true}, 2, 18},
		"size is not known":     {eventstore.Layout{Cache: 4 * gb, Rows: 6_000_000}, 2, 8},
		"one worker, in memory": {eventstore.Layout{Bytes: gb, Cache: 4 * gb, Rows: 400_000, Indexed: true}, 1, 1},
	} {
		got := replay.Passes(c.layout, c.workers)
		if got != c.want {
			t.Errorf("%s: %d passes, want %d", name, got, c.want)
		}
		if times := c.layout.TimesRead(got); times > 2 {
			t.Errorf("%s: the table is read %.1f times", name, times)
		}
	}
}

// A pool that is as small as it may be does not make readers and workers wait for each other for ever.
func TestFewConnections(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{plain, elsewhere} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			fewConnections(t, newWorld(t, k, inGo))
		})
	}
}

func fewConnections(t *testing.T, w *world) {
	t.Helper()
	for connections, fails := range map[int32]bool{1: true, 2: false, 3: false} {
		pool := func() *pgxpool.Pool {
			config := w.db.Config()
			config.MaxConns, config.MinConns = connections, 0
			db, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			return db
		}
		if w.kind == elsewhere {
			w.events = pool()
		}
		db := pool()
		if err := w.empty(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, aggregate := range aggregates {
			if err := w.writers[0].append(t.Context(), aggregate, "Added", how{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.writers[0].finish(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		own := w.parts().on(db)
		own.workers, own.bounds, own.count = 2, []string{"b", "c"}, func(string) {}
		if err := own.begin(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if err := own.run(t.Context()); (err != nil) != fails {
			t.Errorf("%d connections: %v", connections, err)
		}
	}
}
