package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/viewschema/projector/estimate"
)

// forecast is what plan --estimate says of a rebuild that has not begun.
type forecast struct {
	Reading struct {
		Passes int `json:"passes"`
	} `json:"reading"`
	Estimate struct {
		Total   float64          `json:"total_seconds"`
		Seconds estimate.Seconds `json:"seconds"`
		Work    estimate.Work    `json:"work"`
		Site    estimate.Site    `json:"site"`
		Basis   struct {
			Probe estimate.Probe `json:"probe"`
		} `json:"basis"`
	} `json:"estimate"`
}

// forecast asks for the estimate of a rebuild into a database in which there was none.
func (b *bench) forecast(ctx context.Context, w worker, database string) (f forecast, err error) {
	if err := b.reset(ctx, database); err != nil {
		return f, err
	}
	out, _, err := b.command(ctx, w, b.server.URL(database), "--json", fmt.Sprintf("--workers=%d", b.workers), "plan", "--estimate")
	if err == nil {
		err = json.Unmarshal([]byte(out), &f)
	}
	if err != nil {
		return f, fmt.Errorf("plan --estimate on %s: %w", database, err)
	}
	return f, nil
}

// estimated is an estimate beside the rebuild, in seconds.
type estimated struct {
	Events   int              `json:"events"`
	Estimate float64          `json:"estimate_seconds"`
	Said     estimate.Seconds `json:"estimate_parts"`
	Rebuild  float64          `json:"rebuild_seconds"`
	Took     estimate.Seconds `json:"rebuild_parts"` // start: all else
}

// estimates holds what plan --estimate says against what was measured, and calibrates the model by that.
func (b *bench) estimates(ctx context.Context) error {
	var seen []observed
	for _, events := range []int{b.events / 10, b.events} {
		o, err := b.observe(ctx, events)
		if err != nil {
			return err
		}
		seen = append(seen, o)
	}
	if b.large {
		o, err := b.observeTenfold(ctx)
		if err != nil {
			return err
		}
		seen = append(seen, o)
	}
	for _, o := range seen {
		b.hold(o)
	}
	return b.calibrate(ctx, seen)
}

// hold adds the row of an estimate and its rebuild.
func (b *bench) hold(o observed) {
	e := o.estimated()
	b.report.Estimates = append(b.report.Estimates, e)
	b.report.add(row{
		Row: 14, What: fmt.Sprintf("error of plan --estimate, %s events", number(e.Events)), Unit: "%",
		Measured: 100 * math.Abs(e.Estimate/e.Rebuild-1), Must: new(25.0),
	})
	b.report.Notes = append(b.report.Notes, fmt.Sprintf(
		"row 14, %s events: estimated %.2f s (replay %.2f, index %.2f, all else %.2f), measured %.2f s (replay %.2f, index %.2f, all else %.2f)", number(e.Events),
		e.Estimate, e.Said.Replay, e.Said.Index, e.Said.Start+e.Said.Analyze, e.Rebuild, e.Took.Replay, e.Took.Index, e.Took.Start+e.Took.Analyze))
}
