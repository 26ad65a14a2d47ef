package estimate

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// round are rates to reckon with in one's head.
var round = Rates{
	Start: 1, Batch: 0.01, Read: 2e-6, Remerge: 1e-6, Apply: 1e-6, Write: 1e-6, Index: 1e-6, Analyze: 0.5, Lane: 10e-6, CatchUp: 50e-6,
	Sort: 1, WAL: 1, Memory: 20 << 20, MemoryPerWorker: 10 << 20, Probe: Probe{Core: 0.2, Read: 2e-6, Apply: 4e-6},
}

// million is a rebuild of a million events into a table with a row for each, and an index.
func million() Work {
	return Work{
		Events: 1e6, EventBytes: 200, StoreBytes: 200e6, Passes: 100, Batches: 100,
		Tables: []Table{{Name: "t", Rows: 1e6, Bytes: 100e6, Indexes: 1, IndexBytes: 40e6}},
	}
}

// roomy is a server that is never short of anything, with four workers elsewhere.
var roomy = Site{Workers: 4, SortMemory: 1 << 30, Builders: 1}

func TestWhatARebuildIsBoundBy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		work   func(*Work)
		site   func(*Site)
		replay float64
		bound  Resource
	}{
		"reading takes as long as applying and writing": {nil, nil, 2.0/4 + 2.0/4/25 + 0.25, Readers},
		"more rows": {func(w *Work) { w.Tables[0].Rows = 3e6 }, nil, 4.0/4 + 2.0/4/25 + 0.25, Workers},
		"one pass for each worker, so that nothing is stored while events are sorted": {func(w *Work) { w.Passes = 4 }, nil, 2.0/4 + 2.0/4 + 0.25, Readers},
		"two passes, four workers":      {func(w *Work) { w.Passes = 2 }, nil, 2.0/2 + 2.0/4 + 0.25, Readers},
		"one core of the server":        {nil, func(s *Site) { s.Cores = 1 }, 3 + 0.25, ServerCores},
		"one core of the workers":       {nil, func(s *Site) { s.WorkerCores, s.Cores = 0.5, 32 }, 2 + 0.25, WorkerCores},
		"one core for all of it":        {nil, func(s *Site) { s.Cores, s.WorkerCores, s.Shared = 1, 1, true }, 4 + 0.25, ServerCores},
		"a slow network":                {nil, func(s *Site) { s.Network = 50e6 }, 4 + 0.25, Network},
		"no network in between":         {nil, func(s *Site) { s.Network, s.Shared = 50e6, true }, 2.0/4 + 2.0/4/25 + 0.25, Readers},
		"a slow disk":                   {nil, func(s *Site) { s.DiskWrite = 50e6 }, 4 + 0.25, DiskWrites},
		"read twice from disk":          {func(w *Work) { w.Reads = 2 }, func(s *Site) { s.DiskRead = 100e6 }, 4 + 0.25, DiskReads},
		"sorts that spill":              {nil, func(s *Site) { s.SortMemory, s.DiskWrite = 1<<20, 100e6 }, 4 + 0.25, DiskWrites},
		"the order of the store":        {func(w *Work) { w.LaneEvents = 1e6 }, nil, 10 + 0.25, Lane},
		"queries, on one core":          {func(w *Work) { w.InSQL = true }, func(s *Site) { s.Cores = 1 }, 4 + 0.25, ServerCores},
		"queries, on as many":           {func(w *Work) { w.InSQL = true }, func(s *Site) { s.Network = 1 }, 4.0/4 + 0.25, Workers},
		"pass larger than work_mem":     {func(w *Work) { w.Passes = 4 }, func(s *Site) { s.SortMemory = 4 << 20 }, 2.0/4 + 2.0/4 + 0.25, Readers},
		"more runs than are merged":     {func(w *Work) { w.Passes = 4 }, func(s *Site) { s.SortMemory = 2 << 20 }, 3.0/4 + 2.0/4 + 0.25, Readers},
		"nothing to sort":               {func(w *Work) { w.Passes, w.Ordered = 4, true }, func(s *Site) { s.SortMemory = 1 << 20 }, 2.0/4 + 0.25, Readers},
		"fewer events than workers":     {func(w *Work) { w.Events, w.Tables[0].Rows, w.Passes, w.Batches = 1, 1, 0, 0 }, nil, 0.0025 + 2.5e-6, Readers},
		"nothing that is replayed":      {func(w *Work) { *w = Work{} }, nil, 0.0025, ""},
		"nothing but the store's order": {func(w *Work) { w.Events, w.LaneEvents = 0, 1e6; w.Tables[0].Rows = 0 }, nil, 10 + 0.25, Lane},
	} {
		w, s := million(), roomy
		if c.work != nil {
			c.work(&w)
		}
		if c.site != nil {
			c.site(&s)
		}
		if e := round.Make(w, s); !near(e.Seconds.Replay, c.replay) || e.Bound != c.bound {
			t.Errorf("%s: %.4f s, bound by %s; want %.4f s, %s", name, e.Seconds.Replay, e.Bound, c.replay, c.bound)
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-5*math.Max(math.Abs(b), 1e-3) }

func TestIndexes(t *testing.T) {
	t.Parallel()
	w := million()
	w.Tables = append(w.Tables, Table{Name: "small", Rows: 1e5, Indexes: 2}, Table{Name: "none", Rows: 1e6})
	for name, c := range map[string]struct {
		site    Site
		seconds float64
		bound   Resource
	}{
		"the largest table decides":     {Site{Workers: 4, Builders: 1}, 1, Builders},
		"several build its index":       {Site{Workers: 4, Builders: 4}, 0.25, Builders},
		"one table after the other":     {Site{Workers: 1, Builders: 1}, 1.2, Builders},
		"more builders than cores":      {Site{Workers: 4, Builders: 8, Cores: 1}, 1.2, ServerCores},
		"an index is logged as it is":   {Site{Workers: 4, Builders: 1, DiskWrite: 10e6, IndexMemory: 1 << 30}, 8, DiskWrites},
		"and sorted in temporary files": {Site{Workers: 4, Builders: 1, DiskWrite: 10e6, IndexMemory: 1 << 20}, 12, DiskWrites},
	} {
		if e := round.Make(w, c.site); !near(e.Seconds.Index, c.seconds) || e.Index != c.bound {
			t.Errorf("%s: %.4f s, bound by %s; want %.4f s, %s", name, e.Seconds.Index, e.Index, c.seconds, c.bound)
		}
	}
}

func TestWhatARebuildNeeds(t *testing.T) {
	t.Parallel()
	w, s := million(), roomy
	if b := round.Make(w, s).Bytes; b != (Bytes{Tables: 100e6, Indexes: 40e6, WAL: 140e6, Memory: 60 << 20, Written: 280e6, Sent: 200e6}) {
		t.Errorf("all in memory: %+v", b)
	}
	// A pass of 2 MB does not fit in 1 MiB; four are sorted at once. The index does not fit, either.
	w.Reads, s.SortMemory, s.IndexMemory, s.Shared = 2, 1<<20, 1<<20, true
	want := Bytes{Tables: 100e6, Indexes: 40e6, Sorts: 40e6, WAL: 140e6, Memory: 60 << 20, Read: 400e6 + 240e6, Written: 280e6 + 240e6}
	if b := round.Make(w, s).Bytes; b != want {
		t.Errorf("little memory: %+v, want %+v", b, want)
	}
	w.Ordered, want.Sorts, want.Read, want.Written = true, 40e6, 400e6+40e6, 280e6+40e6 // of the index
	if b := round.Make(w, s).Bytes; b != want {
		t.Errorf("events in order: %+v, want %+v", b, want)
	}
}

func TestWhereTheBottleneckMoves(t *testing.T) {
	t.Parallel()
	w := million() // a worker alone takes 2.02 s
	for name, c := range map[string]struct {
		reads float64
		site  Site
		want  []Move
	}{
		"nothing is scarce": {0, Site{Workers: 4}, []Move{}},
		"cores":             {0, Site{Workers: 4, Cores: 30}, []Move{{21, ServerCores}}},
		"network, then the workers' cores, then the server's": {
			0,
			Site{Workers: 4, Cores: 30, WorkerCores: 8, Network: 1e9},
			[]Move{{11, Network}, {17, WorkerCores}, {21, ServerCores}},
		},
		"passes of a store that does not stay in memory": {1, Site{Workers: 4, Cores: 300}, []Move{{100, Readers}, {202, ServerCores}}},
	} {
		c.site.SortMemory = 1 << 30
		w.Reads = c.reads
		if got := round.Make(w, c.site).Moves; !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestCatchUp(t *testing.T) {
	t.Parallel()
	w, s := million(), roomy
	for tail, want := range map[float64]float64{0: 0, 40_000: 1, 80_000: -1, 100_000: -1} {
		w.Tail = tail
		e := round.Make(w, s)
		if want > 0 { // as long as the rebuild, if half of what is possible comes
			want = e.Seconds.Total()
		}
		if c := e.CatchUp; c.PerSecond != 80_000 || !near(c.Seconds, want) {
			t.Errorf("%.0f events/s: %+v, want %.2f s", tail, c, want)
		}
	}
	s.Cores = 2
	if c := round.Make(w, s).CatchUp; c.PerSecond != 40_000 {
		t.Errorf("on 2 cores: %+v", c)
	}
}

// A rebuild that has ended is what its rates say.
func TestFitted(t *testing.T) {
	t.Parallel()
	for _, s := range []Site{roomy, {Workers: 2, Cores: 2, WorkerCores: 2, Shared: true, Builders: 3}} {
		took := Seconds{Replay: 12, Index: 3, Analyze: 2}
		fitted, replay, index := round.Fitted(million(), s, took)
		said := fitted.Make(million(), s).Seconds
		if !near(said.Replay, took.Replay) || !near(said.Index, took.Index) || !near(said.Analyze, took.Analyze) {
			t.Errorf("%+v, want %+v", said, took)
		}
		was := round.Make(million(), s).Seconds
		if !near(replay, 12/was.Replay) || !near(index, 3/was.Index) {
			t.Errorf("factors %g and %g", replay, index)
		}
	}
	if fitted, replay, _ := round.Fitted(million(), roomy, Seconds{Replay: 12}); !near(fitted.Index, round.Index*replay) {
		t.Errorf("without indexes, an index takes %g s", fitted.Index)
	}
}

func TestAgainst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		probe Probe
		want  Factors
	}{
		{round.Probe, Factors{1, 1, 1}},
		{Probe{Core: 0.4, Read: 1e-6, Apply: 12e-6}, Factors{Core: 2, Read: 0.5, Apply: 3}},
		{Probe{Core: 0.4}, Factors{2, 2, 2}},
		{Probe{}, Factors{1, 1, 1}},
	} {
		if f := c.probe.Against(round.Probe); f != c.want {
			t.Errorf("%+v: %+v, want %+v", c.probe, f, c.want)
		}
	}
	twice := round.Times(Factors{2, 2, 2})
	was, now := round.Make(million(), roomy), twice.Make(million(), roomy)
	if !near(now.Seconds.Total(), 2*was.Seconds.Total()) || now.CatchUp.PerSecond != was.CatchUp.PerSecond/2 {
		t.Errorf("a machine that takes twice as long: %+v, was %+v", now, was)
	}
}

// What was measured is what the rates say of it.
func TestCalibrate(t *testing.T) {
	t.Parallel()
	site := Site{Workers: 2, Cores: 2, WorkerCores: 2, Shared: true, SortMemory: 16 << 20, Builders: 3}
	truth := round
	truth.Machine, truth.Growth = "a machine", 0.03
	sized := func(times float64, passes, batches int) Observed {
		w := million()
		w.Events, w.Passes, w.Batches = times*w.Events, passes, batches
		for i := range w.Tables {
			w.Tables[i].Rows, w.Tables[i].Bytes, w.Tables[i].IndexBytes = times*w.Tables[i].Rows, times*w.Tables[i].Bytes, times*w.Tables[i].IndexBytes
		}
		read := truth.Read * truth.growth(w.Events/2, referencePass) // the floor has two sessions
		return Observed{
			Work: w, Seconds: truth.Make(w, site).Seconds, WorkerCPU: truth.Apply * w.Events,
			FloorRead: read * w.Events / 2, FloorCopy: truth.Write * w.rows() / 2,
		}
	}
	small, large, huge := sized(0.3, 2, 32), sized(3, 4, 60), sized(30, 2, 600)
	m := Measured{
		Machine: truth.Machine, Site: site, Small: small, Large: large, Huge: &huge, Probe: truth.Probe, Start: truth.Start, Lane: truth.Lane,
		CatchUp: truth.CatchUp / 2, Memory: truth.Memory + 2*truth.MemoryPerWorker, MemoryOfFew: truth.Memory,
		Sorted: large.Work.Events * large.Work.EventBytes * truth.Sort, WAL: large.Work.tableBytes() + large.Work.indexBytes(),
	}
	got := m.Calibrate()
	if err := got.check(); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Observed{"small": small, "large": large, "huge": huge} {
		if said := got.Make(o.Work, site).Seconds; math.Abs(said.Total()/o.Seconds.Total()-1) > 0.05 {
			t.Errorf("%s: %+v, was %+v", name, said, o.Seconds)
		}
	}
	for name, pair := range map[string][2]float64{
		"Read": {got.Read, truth.Read}, "Write": {got.Write, truth.Write}, "Apply": {got.Apply, truth.Apply}, "Index": {got.Index, truth.Index},
		"Analyze": {got.Analyze, truth.Analyze}, "CatchUp": {got.CatchUp, truth.CatchUp}, "Lane": {got.Lane, truth.Lane}, "Sort": {got.Sort, truth.Sort},
		"MemoryPerWorker": {got.MemoryPerWorker, truth.MemoryPerWorker}, "WAL": {got.WAL, truth.WAL}, "Remerge": {got.Remerge, truth.Remerge},
	} {
		if math.Abs(pair[0]/pair[1]-1) > 0.1 {
			t.Errorf("%s is %g, want %g", name, pair[0], pair[1])
		}
	}
	m.Huge = nil
	if r := m.Calibrate(); r.Remerge != Reference().Remerge {
		t.Errorf("Remerge is %g, and nothing tells of it", r.Remerge)
	}
}

func TestReadRates(t *testing.T) {
	t.Parallel()
	write := func(text string) (file string) {
		file = filepath.Join(t.TempDir(), "rates.json")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	text, err := json.Marshal(Reference())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ReadRates(write(string(text))); err != nil || r != Reference() {
		t.Errorf("%+v, %v", r, err)
	}
	for text, want := range map[string]string{
		strings.Replace(string(text), `"batch_seconds"`, `"patch_seconds"`, 1): "batch_seconds is 0, and has to be more than 0; make bench",
		"{": "rates.json: unexpected end of JSON input; make bench",
	} {
		if _, err := ReadRates(write(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := ReadRates("none"); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
}
