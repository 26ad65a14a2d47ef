package cli

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/viewschema/projector/replay"
)

// rateWindow is how far back the rate looks: long enough to even out batches, short enough to show what is going on now.
const rateWindow = 15 * time.Second

// pace tells how fast events are replayed. What earlier runs or other processes had done before does not count.
type pace struct {
	marks []mark
	last  reading
}

type mark struct {
	at   time.Time
	done int64
}

// reading is a replay.Progress with what follows from its predecessors.
type reading struct {
	replay.Progress
	Rate  float64       // events per second; 0: not known yet
	Left  time.Duration // of this phase
	Total int64         // events, for people: as many as there were thought to be at any time of the phase
	Share float64       // how much of the phase is done, from 0 to 1, for people: it does not go back
}

func (p *pace) read(progress replay.Progress, now time.Time) reading {
	r := reading{Progress: progress, Total: progress.Events, Share: share(progress)}
	p.marks = append(p.marks, mark{now, progress.EventsDone})
	for len(p.marks) > 2 && now.Sub(p.marks[1].at) >= rateWindow {
		p.marks = p.marks[1:]
	}
	since := now.Sub(p.marks[0].at)
	events := progress.EventsDone - p.marks[0].done // can fall: a batch that fails is taken back
	if since > 0 && events > 0 && progress.Phase == replay.PhaseReplay {
		r.Rate = float64(events) / since.Seconds()
		r.Left = time.Duration(float64(progress.Events-progress.EventsDone) / r.Rate * float64(time.Second))
	}
	if p.last.Phase == r.Phase {
		r.Total, r.Share = max(r.Total, p.last.Total), max(r.Share, p.last.Share)
	}
	p.last = r
	return r
}

// share counts events while there are any to replay, batches otherwise.
func share(p replay.Progress) float64 {
	switch {
	case p.Phase == replay.PhaseReplay && p.Events > 0:
		return min(1, float64(p.EventsDone)/float64(p.Events))
	case p.Batches > 0:
		return float64(p.BatchesDone) / float64(p.Batches)
	}
	return 0
}

// line is the reading in words.
func (r reading) line() string {
	return fmt.Sprintf("%s %d%%  %s", r.Phase, int(100*r.Share), r.counts(false)+r.speed())
}

// bar is the reading in one line of a terminal that has so many columns. What does not fit is left out. While the phase
// lasts, the bar keeps its place and its length.
func (r reading) bar(columns int) string {
	const shortest, longest = 10, 40
	head, tail := fmt.Sprintf("%-7s ", r.Phase), fmt.Sprintf(" %3d%%  %s", int(100*r.Share), r.counts(true))
	room := len(tail)
	if r.Phase == replay.PhaseReplay {
		room += len("  1,000,000/s  eta 10h00m00s")
	}
	length := min(longest, columns-1-len(head)-room-2)
	tail += r.speed()
	if length < shortest {
		text := head + strings.TrimLeft(tail, " ")
		return text[:max(0, min(len(text), columns-1))]
	}
	filled := int(float64(length) * r.Share)
	return head + "[" + strings.Repeat("=", filled) + strings.Repeat(" ", length-filled) + "]" + tail
}

// counts says how many of how many are done; padded, it is equally long throughout the phase.
func (r reading) counts(padded bool) string {
	of := func(done, all int64, what string) string {
		width := 0
		if padded {
			width = len(number(all))
		}
		return fmt.Sprintf("%*s/%s %s", width, number(done), number(all), what)
	}
	if r.Phase != replay.PhaseReplay {
		return of(int64(r.BatchesDone), int64(r.Batches), "tables")
	}
	text := of(r.EventsDone, r.Total, "events")
	if r.Batches > 0 {
		text += "  " + of(int64(r.BatchesDone), int64(r.Batches), "batches")
	}
	if l := r.Lane; l != nil && l.Position < l.Cut {
		text += fmt.Sprintf("  lane at %s of %s", number(l.Position), number(l.Cut))
	}
	return text
}

func (r reading) speed() string {
	if r.Rate == 0 {
		return ""
	}
	return fmt.Sprintf("  %s/s  eta %s", number(int64(r.Rate)), r.Left.Round(time.Second))
}

// progressView is a reading for programs.
type progressView struct {
	Type        string   `json:"type"`
	Phase       string   `json:"phase"`
	Batches     int      `json:"batches"` // of the phase
	BatchesDone int      `json:"batches_done"`
	Events      int64    `json:"events"`
	EventsDone  int64    `json:"events_done"`
	Rows        int64    `json:"rows"`
	Rate        float64  `json:"events_per_second"`
	Left        *float64 `json:"left_seconds"` // null: not known
	Elapsed     float64  `json:"elapsed_seconds"`
}

func newProgressView(r reading) progressView {
	v := progressView{
		Type: "progress", Phase: r.Phase.String(), Batches: r.Batches, BatchesDone: r.BatchesDone, Events: r.Events,
		EventsDone: r.EventsDone, Rows: r.Rows, Rate: math.Round(r.Rate), Elapsed: seconds(r.Elapsed),
	}
	if r.Rate > 0 {
		left := seconds(r.Left)
		v.Left = &left
	}
	return v
}
