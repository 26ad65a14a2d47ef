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
type pace struct{ marks []mark }

type mark struct {
	at   time.Time
	done int64
}

// reading is a replay.Progress with what follows from its predecessors.
type reading struct {
	replay.Progress
	Rate float64       // events per second; 0: not known yet
	Left time.Duration // of this phase
}

func (p *pace) read(progress replay.Progress, now time.Time) reading {
	r := reading{Progress: progress}
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
	return r
}

// share is how much of the phase is done, from 0 to 1: events while there are any to replay, batches otherwise.
func (r reading) share() float64 {
	switch {
	case r.Phase == replay.PhaseDone:
		return 1
	case r.Phase == replay.PhaseReplay && r.Events > 0:
		return min(1, float64(r.EventsDone)/float64(r.Events))
	case r.Batches > 0:
		return float64(r.BatchesDone) / float64(r.Batches)
	}
	return 0
}

// line is the reading in words.
func (r reading) line() string {
	return fmt.Sprintf("%s %d%%  %s", r.Phase, int(100*r.share()), r.details())
}

// bar is the reading in one line of a terminal that has so many columns. What does not fit is left out.
func (r reading) bar(columns int) string {
	const shortest, longest = 10, 40
	head, tail := fmt.Sprintf("%-7s ", r.Phase), fmt.Sprintf(" %3d%%  %s", int(100*r.share()), r.details())
	length := min(longest, columns-1-len(head)-len(tail)-2)
	if length < shortest {
		text := head + strings.TrimLeft(tail, " ")
		return text[:max(0, min(len(text), columns-1))]
	}
	filled := int(float64(length) * r.share())
	return head + "[" + strings.Repeat("=", filled) + strings.Repeat(" ", length-filled) + "]" + tail
}

func (r reading) details() string {
	if r.Phase != replay.PhaseReplay {
		if r.Phase == replay.PhaseDone {
			return fmt.Sprintf("%s events  %s rows", number(r.EventsDone), number(r.Rows))
		}
		return fmt.Sprintf("%d/%d tables", r.BatchesDone, r.Batches)
	}
	text := fmt.Sprintf("%s/%s events", number(r.EventsDone), number(r.Events))
	if r.Rate > 0 {
		text += fmt.Sprintf("  %s/s  eta %s", number(int64(r.Rate)), r.Left.Round(time.Second))
	}
	return text + fmt.Sprintf("  %d/%d batches", r.BatchesDone, r.Batches)
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
