package estimate

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
)

// Rates say what a machine takes for the parts of a rebuild. Core-seconds are seconds of one busy core. make bench measures all of
// them; docs/scaling.md says how.
type Rates struct {
	Machine string `json:"machine"` // that was measured, for people

	Start float64 `json:"start_seconds"` // of a rebuild without an event: the process, the survey, the new tables
	Batch float64 `json:"batch_seconds"` // that a worker does not work, per batch: claim and commit

	Read    float64 `json:"read_core_seconds"`     // server, per event: to fetch, sort and send it, in a pass of referencePass events
	Remerge float64 `json:"remerge_core_seconds"`  // more of that, for each time that a sort goes over its temporary files again
	Apply   float64 `json:"apply_core_seconds"`    // worker, per event: to receive and decode it, to run handlers, to encode rows
	Write   float64 `json:"write_core_seconds"`    // server, per row: COPY
	Index   float64 `json:"index_core_seconds"`    // server, per row and index, of a table of referenceRows
	Growth  float64 `json:"growth"`                // the part by which Read and Index grow with each doubling of what is sorted
	Analyze float64 `json:"analyze_seconds"`       // per table, whatever its size: the sample is as large for all
	Lane    float64 `json:"lane_seconds"`          // per event that is replayed in the order of the store, by one worker
	CatchUp float64 `json:"catch_up_core_seconds"` // per event of a catch-up

	Sort float64 `json:"sort_bytes"` // of temporary files, per byte of the event table that is sorted and does not fit in work_mem
	WAL  float64 `json:"wal_bytes"`  // per byte of tables and indexes

	Memory          float64 `json:"memory_bytes"` // of a process …
	MemoryPerWorker float64 `json:"memory_bytes_per_worker"`

	Probe Probe `json:"probe"`
}

// Probe is a look at a machine, of a second or two. Held against the Probe of the machine whose rates are known, it tells how
// much faster or slower another one is. It is taken while the machine does whatever else it does.
type Probe struct {
	Core  float64 `json:"core_seconds"`            // of the server, for a computation that is always the same
	Read  float64 `json:"read_seconds"`            // per event: to read a sample of events and to sort it, alone
	Apply float64 `json:"apply_seconds,omitempty"` // per event: to run the handlers in memory; 0: there are none in Go
}

//go:embed reference.json
var reference []byte

// Reference returns the rates of the machine on which the benchmarks of docs/benchmarks.md were run.
func Reference() Rates {
	r, err := parse(reference)
	if err != nil {
		panic("estimate: reference.json: " + err.Error()) // a test reads it
	}
	return r
}

// ReadRates reads rates that make bench has written.
func ReadRates(file string) (Rates, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Rates{}, err
	}
	r, err := parse(text)
	if err != nil {
		return Rates{}, fmt.Errorf("%s: %w; make bench BENCH='-only 14 -rates %s' writes it", file, err, file)
	}
	return r, nil
}

func parse(text []byte) (r Rates, err error) {
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	return r, r.check()
}

// check finds what was left out or cannot be. Growth and Remerge may be too small to be measured.
func (r Rates) check() error {
	values := map[string]float64{
		"start_seconds": r.Start, "batch_seconds": r.Batch, "read_core_seconds": r.Read, "apply_core_seconds": r.Apply,
		"write_core_seconds": r.Write, "index_core_seconds": r.Index, "analyze_seconds": r.Analyze, "lane_seconds": r.Lane,
		"catch_up_core_seconds": r.CatchUp, "sort_bytes": r.Sort, "wal_bytes": r.WAL, "memory_bytes": r.Memory,
		"memory_bytes_per_worker": r.MemoryPerWorker,
		"core_seconds":            r.Probe.Core, "read_seconds": r.Probe.Read, "apply_seconds": r.Probe.Apply,
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if value := values[name]; value <= 0 {
			return fmt.Errorf("%s is %g, and has to be more than 0", name, value)
		}
	}
	return nil
}

// Factors say how many times longer than a Rates another machine, or another application, takes.
type Factors struct {
	Core  float64 `json:"core"`  // the server, for all but reading
	Read  float64 `json:"read"`  // reading events
	Apply float64 `json:"apply"` // the worker
}

// Against compares two probes. What was not measured is as fast as the server's core.
func (p Probe) Against(known Probe) Factors {
	f := Factors{Core: 1}
	if p.Core > 0 {
		f.Core = p.Core / known.Core
	}
	f.Read, f.Apply = f.Core, f.Core
	if p.Read > 0 {
		f.Read = p.Read / known.Read
	}
	if p.Apply > 0 {
		f.Apply = p.Apply / known.Apply
	}
	return f
}

// Times returns the rates of a machine that takes so many times longer.
func (r Rates) Times(f Factors) Rates {
	r.Start *= f.Core
	r.Batch *= f.Core
	r.Read *= f.Read
	r.Remerge *= f.Read
	r.Apply *= f.Apply
	r.Write *= f.Core
	r.Index *= f.Core
	r.Analyze *= f.Core
	r.Lane *= f.Read
	r.CatchUp *= f.Core
	return r
}

// Fitted returns the rates with which Make says what a rebuild took that has ended, and how far they are from r, for its replay and for
// its indexes. A rebuild without indexes tells nothing of them. Start stays as it is.
func (r Rates) Fitted(w Work, s Site, took Seconds) (_ Rates, replay, index float64) {
	said := r.Make(w, s).Seconds
	replay = took.Replay / said.Replay
	index = replay
	if took.Index > 0 && said.Index > 0 {
		index = took.Index / said.Index
	}
	fitted := r.Times(Factors{Core: replay, Read: replay, Apply: replay})
	fitted.Index = r.Index * index
	fitted.Start, fitted.Analyze = r.Start, r.Analyze
	if took.Analyze > 0 && said.Analyze > 0 {
		fitted.Analyze *= took.Analyze / said.Analyze
	}
	return fitted, replay, index
}
