package estimate

import "math"

// Measured is what make bench has measured, for Calibrate. Server and workers were on one machine, all of whose cores were busy while
// events were replayed and indexes made.
type Measured struct {
	Machine string
	Site    Site // with Cores
	Small   Observed
	Large   Observed
	Huge    *Observed // nil: it was not measured
	Probe   Probe

	Start, CatchUp, Lane float64 // seconds: a rebuild of very few events; per event, without what a command takes for very few

	Memory, MemoryOfFew float64 // bytes at most, with many events and with very few
	Sorted, WAL         float64 // bytes that Large has written: of temporary files, and of WAL
}

// Observed is a rebuild, and the floor beside it: the same reading and writing, by PostgreSQL alone.
type Observed struct {
	Work                 Work
	Seconds              Seconds
	WorkerCPU            float64 // core-seconds
	FloorRead, FloorCopy float64 // seconds, with all cores busy
}

// Calibrate returns the rates with which Make says what was measured.
func (m Measured) Calibrate() Rates {
	s, l := m.Small, m.Large
	cores, workers := m.Site.Cores, float64(m.Site.Workers)
	r := Rates{Machine: m.Machine, Start: m.Start, Lane: m.Lane, Probe: m.Probe, Remerge: Reference().Remerge}

	// Both sizes take the same per event, but for what sorting grows by and for what a batch takes: of that, the small one has more.
	r.Growth = max(0, (l.FloorRead/l.Work.Events)/(s.FloorRead/s.Work.Events)-1) / math.Log2(l.Work.Events/s.Work.Events)
	scale := s.Work.Events / l.Work.Events
	r.Batch = leastBatch
	if more := (float64(s.Work.Batches) - scale*float64(l.Work.Batches)) / workers; more > 0 {
		r.Batch = max(r.Batch, (s.Seconds.Replay-scale*l.Seconds.Replay)/more)
	}

	busy := (l.Seconds.Replay - r.idle(l.Work, m.Site)) * cores
	r.Apply = l.WorkerCPU / l.Work.Events
	server := max(busy-l.WorkerCPU, busy/10)
	read := l.FloorRead / (l.FloorRead + l.FloorCopy)
	r.Read = server * read / l.Work.Events / r.growth(l.Work.Events/float64(l.Work.Passes), referencePass)
	r.Write = server * (1 - read) / l.Work.rows()

	r.Index = 1
	r.Index = l.Seconds.Index / r.indexing(l.Work, m.Site)
	r.Analyze = l.Seconds.Analyze / math.Ceil(float64(len(l.Work.Tables))/workers)
	r.CatchUp = m.CatchUp * min(workers, cores)

	r.Sort = m.Sorted / (l.Work.Events * l.Work.EventBytes)
	r.WAL = m.WAL / (l.Work.tableBytes() + l.Work.indexBytes())
	r.Memory, r.MemoryPerWorker = m.MemoryOfFew, max(leastMemory, (m.Memory-m.MemoryOfFew)/workers)

	if m.Huge != nil {
		if times := float64(m.Huge.Work.remerges(r, m.Site)); times > 0 {
			r.Remerge = 0
			said := r.Make(m.Huge.Work, m.Site).Seconds.Replay
			r.Remerge = max(0, (m.Huge.Seconds.Replay-said)*cores/(m.Huge.Work.Events*times))
		}
	}
	return r
}

// What is less than can be measured.
const (
	leastBatch  = 0.0001
	leastMemory = 1 << 20
)

// indexing is how long it takes to make the indexes.
func (r Rates) indexing(w Work, s Site) float64 {
	_, seconds := r.index(w, s).bound()
	return seconds
}
