// Package estimate says, before a rebuild, how long it takes and what it needs. It is a model of few parts: each step of a rebuild
// makes so many core-seconds and bytes of work, and takes as long as the resource that has most to do. docs/scaling.md has it in
// words, with what it leaves out.
package estimate

import (
	"cmp"
	"math"
	"slices"
)

// Work is what there is to do.
type Work struct {
	Events     float64 `json:"events"`      // that projectors handle
	EventBytes float64 `json:"event_bytes"` // of one, in its table
	StoreBytes float64 `json:"store_bytes"` // of the event table, with what nobody handles
	Passes     int     `json:"passes"`      // statements that read it
	Reads      float64 `json:"reads"`       // how often they read it from disk; 0: it is in memory
	Ordered    bool    `json:"ordered"`     // an index has its events as they lie on disk: nothing is sorted
	Batches    int     `json:"batches"`     // transactions
	LaneEvents float64 `json:"lane_events"` // that are replayed in the order of the store
	InSQL      bool    `json:"in_sql"`      // queries make the tables: the server does the worker's part
	Tables     []Table `json:"tables"`      // as they will be
	Tail       float64 `json:"tail"`        // events per second that come meanwhile
}

// Table is a view table as it will be.
type Table struct {
	Name       string  `json:"table"`
	Rows       float64 `json:"rows"`
	Bytes      float64 `json:"bytes"` // without indexes
	Indexes    int     `json:"indexes"`
	IndexBytes float64 `json:"index_bytes"` // of all of them
}

// Site is where it is done. What is 0 is as much as is needed.
type Site struct {
	Workers     int     `json:"workers"`             // of all processes
	Cores       float64 `json:"server_cores"`        // that the rebuild may use
	WorkerCores float64 `json:"worker_cores"`        // of the workers' machines …
	Shared      bool    `json:"shared"`              // … which are the server's
	SortMemory  float64 `json:"sort_memory"`         // bytes that a pass is sorted in: work_mem or less; 0: 4 MiB
	IndexMemory float64 `json:"index_memory"`        // bytes that an index is sorted in: maintenance_work_mem; 0: 64 MiB
	Builders    int     `json:"index_builders"`      // processes that make one index: 1 + max_parallel_maintenance_workers
	DiskRead    float64 `json:"disk_read,omitempty"` // bytes per second
	DiskWrite   float64 `json:"disk_write,omitempty"`
	Network     float64 `json:"network,omitempty"` // between server and workers, each way
}

// Resource is what a step can be bound by.
type Resource string

// The resources. Of sessions that read, there are no more than passes; those that make the indexes of one table make one at a time.
const (
	Readers     Resource = "reading and sorting"
	Workers     Resource = "applying and storing"
	ServerCores Resource = "the server's cores"
	WorkerCores Resource = "the workers' cores"
	DiskReads   Resource = "reading from disk"
	DiskWrites  Resource = "writing to disk"
	Network     Resource = "the network"
	Lane        Resource = "the order of the store"
	Builders    Resource = "one index after the other"
)

// Seconds are the steps of a rebuild.
type Seconds struct {
	Start   float64 `json:"start"`
	Replay  float64 `json:"replay"`
	Index   float64 `json:"index"`
	Analyze float64 `json:"analyze"`
}

// Total is how long a rebuild takes.
func (s Seconds) Total() float64 { return s.Start + s.Replay + s.Index + s.Analyze }

// Move is a number of workers with which a resource is busy all the time in the replay: more workers are of no use then, without more
// of it.
type Move struct {
	Workers  int      `json:"workers"`
	Resource Resource `json:"resource"`
}

// Bytes is what a rebuild needs.
type Bytes struct {
	Tables  float64 `json:"tables"`
	Indexes float64 `json:"indexes"`
	Sorts   float64 `json:"sorts"` // temporary files, at the most at once
	WAL     float64 `json:"wal"`
	Memory  float64 `json:"memory"` // of all workers, if they are one process
	Read    float64 `json:"read"`   // from disk
	Written float64 `json:"written"`
	Sent    float64 `json:"sent"` // over the network, if there is one: the larger of the two directions
}

// Estimate is what is to be expected.
type Estimate struct {
	Seconds Seconds  `json:"seconds"`
	Bound   Resource `json:"bound"` // that the replay is bound by
	Index   Resource `json:"index_bound"`
	Moves   []Move   `json:"moves"` // the first one first
	Bytes   Bytes    `json:"bytes"`
	CatchUp CatchUp  `json:"catch_up"`
}

// CatchUp is what comes after the rebuild.
type CatchUp struct {
	PerSecond float64 `json:"events_per_second"` // that catch-ups keep up with
	Seconds   float64 `json:"seconds"`           // until the tail is nothing; -1: never
}

// The rates hold for passes of so many events, and indexes of so many rows.
const (
	referencePass = 750_000
	referenceRows = 3_000_000
)

// step is how long each resource is busy in a step, in seconds, if it has nothing else to do.
type step map[Resource]float64

// bound is the resource that is busy longest.
func (s step) bound() (r Resource, seconds float64) {
	for name, busy := range s {
		if busy > seconds || busy == seconds && name < r {
			r, seconds = name, busy
		}
	}
	return r, seconds
}

// per is the time for an amount of work; nothing if there is no end of the resource.
func per(amount, rate float64) float64 {
	if rate <= 0 {
		return 0
	}
	return amount / rate
}

// Make estimates a rebuild.
func (r Rates) Make(w Work, s Site) Estimate {
	s.Workers, s.Builders = max(1, s.Workers), max(1, s.Builders)
	s.SortMemory, s.IndexMemory = cmp.Or(s.SortMemory, 4<<20), cmp.Or(s.IndexMemory, 64<<20)
	w.Passes, w.Batches = max(1, w.Passes), max(1, w.Batches)
	e := Estimate{Bytes: r.bytes(w, s)}
	e.Bound, e.Seconds.Replay = r.replay(w, s).bound()
	e.Seconds.Replay += r.idle(w, s)
	e.Index, e.Seconds.Index = r.index(w, s).bound()
	e.Seconds.Analyze = r.Analyze * math.Ceil(float64(len(w.Tables))/float64(s.Workers))
	e.Seconds.Start = r.Start
	e.Moves = r.moves(w, s)
	e.CatchUp = r.catchUp(w, s, e.Seconds.Total())
	return e
}

// replay is the step in which events are read and rows stored.
func (r Rates) replay(w Work, s Site) step {
	read, work := w.Events*r.reading(w, s), w.Events*r.Apply+w.rows()*r.Write
	server, worker := read+w.rows()*r.Write, w.Events*r.Apply
	spilled := w.spilled(r, s)
	busy := step{
		DiskReads: per(w.StoreBytes*w.Reads+spilled, s.DiskRead), DiskWrites: per(spilled+w.tableBytes()*(1+r.WAL), s.DiskWrite),
		Lane: w.LaneEvents * r.Lane,
	}
	switch {
	case w.InSQL:
		busy[ServerCores] = per(server+worker, s.Cores)
		busy[Workers] = (read + work) / float64(min(s.Workers, w.Passes))
		return busy
	case s.Shared:
		busy[ServerCores] = per(server+worker, s.Cores)
	default:
		busy[ServerCores], busy[WorkerCores] = per(server, s.Cores), per(worker, s.WorkerCores)
		busy[Network] = per(w.sent(s), s.Network)
	}
	// A pass is sorted before its first event comes. Only what is sorted while rows of an earlier one are stored costs no time.
	readers := min(s.Workers, w.Passes)
	rounds := math.Ceil(float64(w.Passes) / float64(readers))
	read, work = read/float64(readers), work/float64(s.Workers)
	both := max(read, work)
	if !w.Ordered {
		both += min(read, work) / rounds
	}
	if read >= work {
		busy[Readers] = both
	} else {
		busy[Workers] = both
	}
	return busy
}

// idle is the time in which a worker neither works nor waits for anything but its transaction.
func (r Rates) idle(w Work, s Site) float64 { return r.Batch * float64(w.Batches) / float64(s.Workers) }

// reading is the core-seconds of an event in passes of their size.
func (r Rates) reading(w Work, s Site) float64 {
	if w.Ordered {
		return r.Read
	}
	return r.Read*r.growth(w.Events/float64(w.Passes), referencePass) + r.Remerge*float64(w.remerges(r, s))
}

// growth is how many times as long each of n things takes to sort as each of as many as were measured.
func (r Rates) growth(n, measured float64) float64 {
	return max(0.5, 1+r.Growth*math.Log2(max(n, 1)/measured))
}

// What PostgreSQL takes of work_mem for each run that it merges, and its bounds for their number: see tuplesort_merge_order in its
// sources.
const (
	runMemory    = 272 << 10
	fewestMerged = 6
	mostMerged   = 500
)

// remerges is how often a sort goes over its temporary files before its last merge.
func (w Work) remerges(r Rates, s Site) (times int) {
	runs := w.passBytes(r) / s.SortMemory
	order := min(max(s.SortMemory/runMemory, fewestMerged), mostMerged)
	for ; runs > order; times++ {
		runs /= order
	}
	return times
}

// passBytes is how many bytes one pass sorts.
func (w Work) passBytes(r Rates) float64 {
	if w.Ordered {
		return 0
	}
	return w.Events * w.EventBytes * r.Sort / float64(w.Passes)
}

// sent is how many bytes go over the network: the larger of the two directions.
func (w Work) sent(s Site) float64 {
	if s.Shared || w.InSQL {
		return 0
	}
	return max(w.Events*w.EventBytes, w.tableBytes())
}

// spilled is how many bytes sorts write to temporary files.
func (w Work) spilled(r Rates, s Site) float64 {
	if w.passBytes(r) <= s.SortMemory {
		return 0
	}
	return w.Events * w.EventBytes * r.Sort * float64(1+w.remerges(r, s))
}

func (w Work) sum(of func(Table) float64) (sum float64) {
	for _, t := range w.Tables {
		sum += of(t)
	}
	return sum
}

func (w Work) rows() float64       { return w.sum(func(t Table) float64 { return t.Rows }) }
func (w Work) tableBytes() float64 { return w.sum(func(t Table) float64 { return t.Bytes }) }
func (w Work) indexBytes() float64 { return w.sum(func(t Table) float64 { return t.IndexBytes }) }

// index is the step in which indexes are made: of as many tables at once as there are workers, of each one after the other.
func (r Rates) index(w Work, s Site) step {
	var all, longest float64
	for _, t := range w.Tables {
		one := t.Rows * float64(t.Indexes) * r.Index * r.growth(t.Rows, referenceRows)
		all, longest = all+one, max(longest, one)
	}
	builders := float64(s.Builders)
	return step{
		ServerCores: per(all, s.Cores),
		Builders:    max(longest/builders, all/(builders*float64(s.Workers))),
		DiskWrites:  per(w.indexBytes()*(1+r.WAL)+w.indexSorts(s), s.DiskWrite),
	}
}

// indexSorts is what is sorted in temporary files for indexes: of large tables, about what the indexes take.
func (w Work) indexSorts(s Site) float64 {
	return w.sum(func(t Table) float64 {
		if t.Indexes == 0 || t.IndexBytes/float64(t.Indexes) <= s.IndexMemory {
			return 0
		}
		return t.IndexBytes
	})
}

// bytes is what a rebuild leaves, and what goes back and forth.
func (r Rates) bytes(w Work, s Site) Bytes {
	b := Bytes{
		Tables: w.tableBytes(), Indexes: w.indexBytes(), WAL: (w.tableBytes() + w.indexBytes()) * r.WAL,
		Memory: r.Memory + r.MemoryPerWorker*float64(s.Workers), Sent: w.sent(s),
	}
	spilled := w.spilled(r, s)
	if spilled > 0 {
		b.Sorts = w.passBytes(r) * float64(min(s.Workers, w.Passes))
	}
	for _, t := range w.Tables {
		if t.Indexes > 0 {
			b.Sorts = max(b.Sorts, Work{Tables: []Table{t}}.indexSorts(s)/float64(t.Indexes))
		}
	}
	b.Read = w.StoreBytes*w.Reads + spilled + w.indexSorts(s)
	b.Written = b.Tables + b.Indexes + b.WAL + spilled + w.indexSorts(s)
	return b
}

// moves finds with how many workers each resource has no time left. Where workers wait for nothing else, so many make the replay so
// many times as fast.
func (r Rates) moves(w Work, s Site) []Move {
	one := s
	one.Workers = 1
	alone := r.replay(w, one)
	pace := max(alone[Readers], alone[Workers]) // of one worker, if it has all to itself
	moves := []Move{}
	for resource, busy := range r.replay(w, s) {
		if resource != Readers && resource != Workers && busy > 0 {
			moves = append(moves, Move{max(1, int(math.Ceil(pace/busy))), resource})
		}
	}
	if w.Reads > 0 { // a table that does not stay in memory is read in few passes, however many workers there are
		moves = append(moves, Move{w.Passes, Readers})
	}
	slices.SortFunc(moves, func(a, b Move) int {
		return cmp.Or(cmp.Compare(a.Workers, b.Workers), cmp.Compare(a.Resource, b.Resource))
	})
	return moves
}

// catchUp tells whether catch-ups come to an end. While one is at work, the next one's events come: with a share of what is possible
// that is below 1, each finds less than the one before.
func (r Rates) catchUp(w Work, s Site, rebuild float64) CatchUp {
	cores := float64(s.Workers)
	if s.Cores > 0 {
		cores = min(cores, s.Cores)
	}
	c := CatchUp{PerSecond: cores / r.CatchUp}
	if share := w.Tail / c.PerSecond; share < 1 {
		c.Seconds = rebuild * share / (1 - share)
	} else {
		c.Seconds = -1
	}
	return c
}
