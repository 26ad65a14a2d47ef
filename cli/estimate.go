package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/estimate"
	"github.com/viewschema/projector/viewschema"
)

func estimateFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.BoolFlag{
			DisableDefaultText: true, Name: "estimate",
			Usage: "also tell how long the rebuild takes and what it needs, by the last one here or by a look at the machines that takes a few seconds",
		},
		&urfave.IntFlag{
			Name: "server-cores", DefaultText: "this machine's, if the server is on it",
			Usage: "with --estimate: the cores of the server that the rebuild may use",
		},
		&urfave.StringFlag{Name: "rates", Usage: "with --estimate: a file of rates that make bench has written, to go by these alone"},
	}
}

// estimated is nil if no estimate was asked for.
func estimated(ctx context.Context, s *session, p *viewschema.Plan) (*viewschema.Estimate, error) {
	cores, file := s.flags.Int("server-cores"), s.flags.String("rates")
	if s.flags.IsSet("server-cores") && cores < 1 {
		return nil, usagef("--server-cores %d: at least 1", cores)
	}
	if !s.flags.Bool("estimate") {
		for _, flag := range []string{"server-cores", "rates"} {
			if s.typed(flag) {
				return nil, usagef("--%s goes with --estimate", flag)
			}
		}
		return nil, nil
	}
	if p.Nothing() {
		return nil, nil
	}
	o := viewschema.EstimateOptions{ServerCores: cores, WorkerCores: runtime.GOMAXPROCS(0)} // of a container, those that it may use
	if file != "" {
		rates, err := estimate.ReadRates(file)
		if err != nil {
			return nil, usagef("--rates: %v", err)
		}
		o.Rates = &rates
	}
	return s.schema.Estimate(ctx, p, o)
}

// estimateView is an estimate for somebody who has to choose a time for the migration.
type estimateView struct{ *viewschema.Estimate }

func (e estimateView) text(w io.Writer) {
	fmt.Fprintln(w, "\nwhat to expect")
	t := table(w)
	line := func(what, format string, args ...any) {
		fmt.Fprintf(t, "  %s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	line("time", "about %s (±25%%) with %s: replay %s, indexes %s, all else %s", rough(e.Total), count(int64(e.Site.Workers), "worker", "workers"),
		rough(e.Seconds.Replay), rough(e.Seconds.Index), rough(e.Seconds.Start+e.Seconds.Analyze))
	line("bound by", "%s", e.bound())
	line("disk", "%s: tables %s, indexes %s; and %s of temporary files for sorts", amount(e.Bytes.Tables+e.Bytes.Indexes), amount(e.Bytes.Tables),
		amount(e.Bytes.Indexes), amount(e.Bytes.Sorts))
	line("WAL", "%s, %s/s", amount(e.Bytes.WAL), amount(e.Bytes.WAL/e.Total))
	line("traffic", "%s", e.traffic())
	line("memory", "%s for the workers; of the server, %s for each of %s, and maintenance_work_mem for each table that gets indexes", amount(e.Bytes.Memory),
		amount(e.Site.SortMemory), count(int64(min(e.Site.Workers, e.Work.Passes)), "reader", "readers"))
	line("catch-up", "%s", e.catchUp())
	line("going by", "%s", e.basis())
	for _, text := range e.Assumed {
		line("assuming", "%s", text)
	}
	t.Flush()
}

func (e estimateView) bound() string {
	text := "replay: " + string(e.Bound)
	if len(e.Moves) > 0 && e.Moves[0].Resource != e.Bound {
		text += fmt.Sprintf(", and from %s on %s", count(int64(e.Moves[0].Workers), "worker", "workers"), e.Moves[0].Resource)
	}
	if e.Seconds.Index > 0 {
		text += "; indexes: " + string(e.Index)
	}
	return text
}

// traffic is what disk and network have to be able to do for that.
func (e estimateView) traffic() string {
	text := fmt.Sprintf("the disk has to read %s/s and to write %s/s", amount(e.Bytes.Read/e.Total), amount(e.Bytes.Written/e.Total))
	if e.Bytes.Sent > 0 {
		text += fmt.Sprintf(", the network to carry %s/s", amount(e.Bytes.Sent/max(e.Seconds.Replay, 0.001)))
	}
	return text + ", or it takes longer"
}

func (e estimateView) catchUp() string {
	text := fmt.Sprintf("keeps up with %s events/s; just now %s came", number(roughly(e.CatchUp.PerSecond)), number(int64(math.Round(e.Work.Tail))))
	switch {
	case e.CatchUp.Seconds < 0:
		return text + ", so it never ends: wait for a quieter time"
	case e.Work.Tail == 0:
		return text
	}
	return text + fmt.Sprintf(", so it takes %s", rough(e.CatchUp.Seconds))
}

func (e estimateView) basis() string {
	b := e.Basis
	switch {
	case b.Last != nil:
		return fmt.Sprintf("the last rebuild here, run %d of %s: %s in %s, %.1f times as long as on %s", b.Last.Run, b.Last.Began.Format("2006-01-02"), events(b.Last.Events),
			rough(b.Last.Replay+b.Last.Index), b.Last.ReplayFactor, b.Machine)
	case b.Factors != nil:
		return fmt.Sprintf("a look at the machines here: reading takes %.1f times as long as on %s, handlers %.1f times, the server's other work %.1f times",
			b.Factors.Read, b.Machine, b.Factors.Apply, b.Factors.Core)
	}
	return "the rates of " + b.Machine
}

// rough writes seconds as precisely as an estimate is.
func rough(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return duration(d)
	case d < 2*time.Minute:
		return d.Round(time.Second).String()
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// roughly keeps two digits.
func roughly(n float64) int64 {
	scale := math.Pow10(max(0, int(math.Log10(cmp.Or(n, 1)))-1))
	return int64(math.Round(n/scale) * scale)
}

func amount(n float64) string { return size(int64(n)) }
