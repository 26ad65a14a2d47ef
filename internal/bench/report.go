package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/viewschema/projector/estimate"
)

// report is what the benchmark says.
type report struct {
	PostgreSQL string            `json:"postgresql"`
	Settings   map[string]string `json:"settings"`
	Go         string            `json:"go"`
	System     string            `json:"system"`
	Cores      int               `json:"cores"`
	Workers    int               `json:"workers"`
	Repeat     int               `json:"repeat"`
	Flags      []string          `json:"flags,omitempty"`
	Began      time.Time         `json:"began"`
	Took       float64           `json:"took_seconds"`
	Rows       []row             `json:"rows"`
	Sizes      []size            `json:"sizes"`
	Estimates  []estimated       `json:"estimates,omitempty"` // row 14
	Rates      *estimate.Rates   `json:"rates,omitempty"`     // row 14: the constants of plan --estimate
	Notes      []string          `json:"notes,omitempty"`
}

// row is one measurement beside what it must be at most, and what is aimed at. Without a unit it is a ratio.
type row struct {
	Row      int      `json:"row"`
	What     string   `json:"what"`
	Measured float64  `json:"measured"`
	Unit     string   `json:"unit,omitempty"`
	Low      *float64 `json:"low,omitempty"`
	High     *float64 `json:"high,omitempty"`
	Must     *float64 `json:"must,omitempty"`
	Aim      *float64 `json:"aim,omitempty"`
}

// spread takes down one of several measurements.
func (r *row) spread(measured float64) {
	if r.Low == nil || measured < *r.Low {
		r.Low = &measured
	}
	if r.High == nil || measured > *r.High {
		r.High = &measured
	}
}

// size is the rebuild of a number of events beside its floor, which is 0 if it was not measured. Seconds are medians.
type size struct {
	Events  int                `json:"events"`
	Floor   float64            `json:"floor_seconds"`
	Read    float64            `json:"floor_read_seconds"`
	Write   float64            `json:"floor_write_seconds"`
	Index   float64            `json:"floor_index_seconds"`
	Rebuild float64            `json:"rebuild_seconds"`
	PeakMiB float64            `json:"peak_mib"`
	Times   map[string]float64 `json:"times_seconds"`
}

func newSize(events int, c *comparison) size {
	s := size{Events: events, Rebuild: c.rebuild().Seconds(), Times: map[string]float64{}}
	for _, o := range c.rebuilds {
		s.PeakMiB = max(s.PeakMiB, mebibytes(o.Peak))
	}
	for name := range c.rebuilds[0].Times {
		s.Times[name] = median(c.rebuilds, func(o outcome) float64 { return o.Times[name] })
	}
	if len(c.floors) > 0 {
		s.Floor = c.floor().Seconds()
		s.Read = median(c.floors, func(t floorTimes) float64 { return t.Read.Seconds() })
		s.Write = median(c.floors, func(t floorTimes) float64 { return t.Write.Seconds() })
		s.Index = median(c.floors, func(t floorTimes) float64 { return t.Index.Seconds() })
	}
	return s
}

func (r *report) add(rows ...row) { r.Rows = append(r.Rows, rows...) }

// unbounded takes the bounds off that are for another number of events than was measured.
func (r *report) unbounded() {
	for i := range r.Rows {
		if row := &r.Rows[i]; !slices.Contains([]int{5, 9, 14}, row.Row) {
			row.Must, row.Aim = nil, nil
		}
	}
	r.Notes = append(r.Notes, "rows 5, 9 and 14 have bounds at every size; those of the others are for "+number(boundedEvents)+" events, and not shown")
}

// markdown prints the report.
func (r *report) markdown(to io.Writer) error {
	var w strings.Builder
	fmt.Fprintf(&w, "PostgreSQL %s, %s, %s, %d cores; %d workers; %s, %.0f s in all.\n\n", r.PostgreSQL, r.Go, r.System, r.Cores, r.Workers,
		r.Began.Format("2006-01-02 15:04 MST"), r.Took)
	fmt.Fprintf(&w, "Settings:")
	for _, name := range slices.Sorted(maps.Keys(r.Settings)) {
		fmt.Fprintf(&w, " `%s=%s`", name, r.Settings[name])
	}
	fmt.Fprintf(&w, ".\n\n")
	if len(r.Flags) > 0 {
		fmt.Fprintf(&w, "Flags: `%s`.\n\n", strings.Join(r.Flags, " "))
	}
	fmt.Fprintf(&w, "What is repeated: medians of %d, in row 7 of twice as many, where there are 1,000 events of %d; in parentheses the least and the greatest. A ratio is that of medians, in parentheses of what was measured in turn.\n\n", r.Repeat, fewRepeated)
	fmt.Fprintf(&w, "| | what | measured | must | aim |\n| --- | --- | --- | --- | --- |\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&w, "| %d | %s | %s | %s | %s |\n", row.Row, row.What, row.measured(), row.bound(row.Must), row.bound(row.Aim))
	}
	if len(r.Sizes) > 0 {
		fmt.Fprintf(&w, "\n| events | floor s (read, write, index) | rebuild s | ratio | events/s | peak MiB | where the time goes |\n")
		fmt.Fprintf(&w, "| ---: | ---: | ---: | ---: | ---: | ---: | --- |\n")
	}
	for _, s := range r.Sizes {
		floor, quotient := "–", "–"
		if s.Floor > 0 {
			floor = fmt.Sprintf("%.2f (%.2f, %.2f, %.2f)", s.Floor, s.Read, s.Write, s.Index)
			quotient = fmt.Sprintf("%.2f", s.Rebuild/s.Floor)
		}
		fmt.Fprintf(&w, "| %s | %s | %.2f | %s | %s | %.0f | %s |\n", number(s.Events), floor, s.Rebuild, quotient,
			number(int(float64(s.Events)/s.Rebuild)), s.PeakMiB, shares(s.Times))
	}
	if r.Rates != nil {
		text, err := json.MarshalIndent(r.Rates, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(&w, "\nThe rates of `plan --estimate`, as measured:\n\n```json\n%s\n```\n", text)
	}
	if len(r.Notes) > 0 {
		fmt.Fprintf(&w, "\n- %s\n", strings.Join(r.Notes, "\n- "))
	}
	_, err := io.WriteString(to, w.String())
	return err
}

func (r *row) measured() string {
	text := r.number(r.Measured)
	if r.Low != nil && r.High != nil && *r.Low < *r.High {
		text += fmt.Sprintf(" (%s–%s)", r.number(*r.Low), r.number(*r.High))
	}
	return strings.TrimSpace(text + " " + r.Unit)
}

// number has as many digits as tell something.
func (r *row) number(n float64) string {
	if r.Unit == "ms" || r.Unit == "MiB" || r.Unit == "%" {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.2f", n)
}

func (r *row) bound(most *float64) string {
	switch {
	case most == nil:
		return "–"
	case *most == 0:
		return "0"
	}
	return strings.TrimSpace("≤ " + strconv.FormatFloat(*most, 'g', -1, 64) + " " + r.Unit)
}

// shares are parts of a sum in percent, the greatest first.
func shares(times map[string]float64) string {
	var sum float64
	times = maps.Clone(times)
	for name, t := range times {
		times[name] = max(0, t) // some are what is left of a measurement when an estimate is taken off
	}
	for _, t := range times {
		sum += t
	}
	names := slices.SortedFunc(maps.Keys(times), func(a, b string) int {
		return cmp.Or(cmp.Compare(times[b], times[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %.0f%%", name, 100*times[name]/sum)
	}
	return strings.Join(names, ", ")
}

// median of an even number of values is between the two in the middle.
func median[T any, V ~int64 | ~float64](values []T, of func(T) V) V {
	var sorted []V
	for _, v := range values {
		sorted = append(sorted, of(v))
	}
	slices.Sort(sorted)
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func last[T any](values []T) T { return values[len(values)-1] }

func ratio(a, b time.Duration) float64 { return a.Seconds() / b.Seconds() }

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// number writes n with commas: 1,234,567.
func number(n int) string {
	if n < 1_000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", number(n/1_000), n%1_000)
}
