package docs_test

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/viewschema/projector/estimate"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

var update = flag.Bool("update", false, "write what is computed into the documents")

// The tables of "What to expect" are what the model says.
func TestWhatToExpect(t *testing.T) {
	t.Parallel()
	const file = "scaling.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := text
	for name, table := range map[string]string{"rates": rates(), "sizes": sizes(), "bottlenecks": bottlenecks()} {
		begin, end := []byte("<!-- "+name+" -->\n"), []byte("<!-- end of "+name+" -->")
		before, rest, ok := bytes.Cut(want, begin)
		_, after, closed := bytes.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no place for %s", file, name)
		}
		want = bytes.Join([][]byte{before, begin, []byte(table), end, after}, nil)
	}
	if bytes.Equal(text, want) {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the model says; type: go test ./docs -run TestWhatToExpect -update", file)
	}
	if err := os.WriteFile(file, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

const (
	gib = 1 << 30
	mib = 1 << 20
)

// server is that of the tables, with workers on a machine of their own.
var server = estimate.Site{
	Workers: 16, Cores: 32, WorkerCores: 16, SortMemory: 256 * mib, IndexMemory: 256 * mib, Builders: 5, DiskRead: 3e9, DiskWrite: 2e9, Network: 1.25e9,
}

// cache is the server's effective_cache_size.
const cache = 192 * gib

// What the bank's events make of its tables, per event.
const (
	eventBytes      = 186
	accountsPer     = 0.026
	transactionsPer = 0.914
)

// projectors are those of the bank in the tables.
var projectors, _ = projections.NewSet(bank.Events, bank.Accounts, bank.Transactions)

// rebuild is one of the bank by as many workers. Ordered: aggregate ids begin with the time, so that neighbors lie side by side.
func rebuild(events float64, workers int, ordered bool) estimate.Work {
	l := eventstore.Layout{Bytes: int64(events * eventBytes), Cache: cache, Rows: int64(events), Indexed: true}
	if ordered {
		l.Correlation = 1
	}
	w := estimate.Work{
		Ordered: ordered, Events: events, EventBytes: eventBytes, StoreBytes: events * eventBytes, Tables: []estimate.Table{
			{Name: "accounts", Rows: accountsPer * events, Bytes: accountsPer * events * 249, Indexes: 3, IndexBytes: accountsPer * events * 96},
			{Name: "transactions", Rows: transactionsPer * events, Bytes: transactionsPer * events * 114, Indexes: 2, IndexBytes: transactionsPer * events * 63},
		},
	}
	w.Batches = int(max(1, l.Rows/replay.BatchSize(projectors, l, l.Rows, workers)))
	w.Passes = min(w.Batches, replay.Passes(l, workers))
	if !l.Cached() {
		w.Reads = l.TimesRead(w.Passes)
	}
	return w
}

func sizes() string {
	var b strings.Builder
	fmt.Fprintln(&b, "| events | time | replay | bound by | indexes | worker's memory | tables and indexes | sorts | WAL | more workers gain nothing from |")
	fmt.Fprintln(&b, "| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |")
	r := estimate.Reference()
	for power := 6; power <= 12; power++ {
		events := math.Pow10(power)
		for _, ordered := range []bool{false, true} {
			w := rebuild(events, server.Workers, ordered)
			if ordered && w.Reads == 0 {
				continue // in memory, order makes no difference
			}
			e := r.Make(w, server)
			name := fmt.Sprintf("10%s", superscript(power))
			if w.Reads > 0 && ordered {
				name += ", ids in order"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", name, span(e.Seconds.Total()), span(e.Seconds.Replay), e.Bound, span(e.Seconds.Index),
				amount(e.Bytes.Memory), amount(e.Bytes.Tables+e.Bytes.Indexes), amount(e.Bytes.Sorts), amount(e.Bytes.WAL), moved(e.Moves))
		}
	}
	return b.String()
}

func bottlenecks() string {
	var b strings.Builder
	fmt.Fprintln(&b, "| workers | events/s of the replay | bound by |\n| ---: | ---: | --- |")
	r := estimate.Reference()
	for workers := 1; workers <= 64; workers *= 2 {
		site := server
		site.Workers, site.WorkerCores = workers, float64(workers)
		w := rebuild(1e9, workers, false)
		e := r.Make(w, site)
		fmt.Fprintf(&b, "| %d | %.1f million | %s |\n", workers, w.Events/e.Seconds.Replay/1e6, e.Bound)
	}
	return b.String()
}

func rates() string {
	r := estimate.Reference()
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | | for |\n| --- | ---: | --- |\n", r.Machine)
	line := func(name, value, what string) { fmt.Fprintf(&b, "| %s | %s | %s |\n", name, value, what) }
	micro := func(seconds float64) string { return fmt.Sprintf("%.2f µs", seconds*1e6) }
	line("start", fmt.Sprintf("%.2f s", r.Start), "a rebuild of next to nothing")
	line("batch", fmt.Sprintf("%.1f ms", r.Batch*1000), "a transaction: what a worker waits for")
	line("read", micro(r.Read), "an event, a core of the server: to fetch, sort and send it")
	line("remerge", micro(r.Remerge), "the same, more, each time that a sort goes over its temporary files again")
	line("growth", fmt.Sprintf("%.1f%%", 100*r.Growth), "more of read and index with each doubling of what is sorted at once")
	line("apply", micro(r.Apply), "an event, a core of the worker: to receive, decode and project it, and to encode its rows")
	line("write", micro(r.Write), "a row, a core of the server")
	line("index", micro(r.Index), "a row and index, a core of the server")
	line("analyze", fmt.Sprintf("%.2f s", r.Analyze), "a table")
	line("lane", micro(r.Lane), "an event that is replayed in the order of the store")
	line("catch-up", micro(r.CatchUp), "an event of a catch-up, a core")
	line("sort", fmt.Sprintf("%.2f", r.Sort), "bytes of temporary files, a byte of events")
	line("WAL", fmt.Sprintf("%.2f", r.WAL), "bytes, a byte of tables and indexes")
	line("memory", fmt.Sprintf("%.0f MB and %.0f MB", r.Memory/mib, r.MemoryPerWorker/mib), "a process, and each worker")
	return b.String()
}

func moved(moves []estimate.Move) string {
	if len(moves) == 0 {
		return "–"
	}
	return fmt.Sprintf("%d on: %s", moves[0].Workers, moves[0].Resource)
}

func superscript(n int) string {
	return strings.NewReplacer("0", "⁰", "1", "¹", "2", "²", "6", "⁶", "7", "⁷", "8", "⁸", "9", "⁹").Replace(fmt.Sprint(n))
}

func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// amount writes bytes in powers of 1024.
func amount(bytes float64) string {
	unit := 0
	for bytes >= 1024 && unit < 4 {
		bytes /= 1024
		unit++
	}
	digits := 0
	if bytes < 10 && bytes != 0 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %s", digits, bytes, []string{"B", "KB", "MB", "GB", "TB"}[unit])
}
