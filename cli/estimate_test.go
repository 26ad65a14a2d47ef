package cli

import (
	"testing"
	"time"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/estimate"
	"github.com/viewschema/projector/viewschema"
)

func TestEstimateText(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	view := newPlanView(&viewschema.Plan{
		From: 3, To: 4, Projectors: []string{"accounts"}, Events: 250_000_000, Batches: 2_000,
		Tables: []viewschema.TableChange{{Table: "accounts", Kind: projector.KindReplay, Projector: "accounts", Built: "accounts_4", Archived: "accounts_3"}},
	})
	e := &viewschema.Estimate{
		Estimate: estimate.Estimate{
			Seconds: estimate.Seconds{Start: 0.2, Replay: 560, Index: 170.4, Analyze: 0.3},
			Bound:   estimate.Readers, Index: estimate.ServerCores, Moves: []estimate.Move{{Workers: 6, Resource: estimate.ServerCores}, {Workers: 9, Resource: estimate.Network}},
			Bytes: estimate.Bytes{
				Tables: 22 * gib, Indexes: 12 * gib, Sorts: 11.7 * gib, WAL: 29 * gib, Memory: 81 << 20, Read: 88 * gib, Written: 75 * gib, Sent: 47 * gib,
			},
			CatchUp: estimate.CatchUp{PerSecond: 48_312, Seconds: 1.8},
		},
		Total: 730.9,
		Work:  estimate.Work{Passes: 320, Tail: 120.4},
		Site:  estimate.Site{Workers: 4, Cores: 8, SortMemory: 16 << 20},
		Basis: viewschema.Basis{
			Machine: "2 cores for server and workers", Probe: &estimate.Probe{}, Factors: &estimate.Factors{Core: 0.8, Read: 1.42, Apply: 2.2},
		},
		Assumed: []string{"an index of cards takes 32 bytes per row"},
	}
	view.Estimate = e
	golden(t, "estimate", view)
	last := *e
	last.Total, last.Bound, last.Bytes.Sent, last.Assumed = 9.8, estimate.ServerCores, 0, nil
	last.Seconds = estimate.Seconds{Start: 0.1, Replay: 9.6, Analyze: 0.1}
	last.Basis = viewschema.Basis{Machine: "2 cores for server and workers", Last: &viewschema.LastRebuild{
		Run: 12, Began: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC), Events: 200_000_000, Replay: 480, Index: 130, ReplayFactor: 1.31, IndexFactor: 1.02,
	}}
	last.CatchUp.Seconds, last.Work.Tail, last.Work.Passes, last.Site.Workers = -1, 60_000, 1, 1
	view.Estimate = &last
	golden(t, "estimate-last", view)
	given := last
	given.Basis, given.Total, given.Work.Tail, given.CatchUp.Seconds = viewschema.Basis{Machine: "ours"}, 400_000, 0, 0
	view.Estimate = &given
	golden(t, "estimate-rates", view)
}
