package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/viewschema/projector/replay"
)

var start = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func replaying(done int64) replay.Progress {
	return replay.Progress{Phase: replay.PhaseReplay, Batches: 16, BatchesDone: int(done / 200_000), Events: 3_000_000, EventsDone: done, Rows: done / 2}
}

func TestBar(t *testing.T) {
	t.Parallel()
	var p pace
	first := p.read(replaying(1_000_000), start) // an earlier run did these
	later := p.read(replaying(1_200_000), start.Add(2*time.Second))
	merge := p.read(replay.Progress{Phase: replay.PhaseMerge, Batches: 2, BatchesDone: 1, Events: 3_000_000, EventsDone: 3_000_000}, start.Add(20*time.Second))
	index := p.read(replay.Progress{Phase: replay.PhaseIndex, Batches: 2, BatchesDone: 1, Events: 3_000_000, EventsDone: 3_000_000}, start.Add(20*time.Second))
	small := p.read(replay.Progress{Phase: replay.PhaseReplay, Events: 120, EventsDone: 30}, start.Add(21*time.Second)) // has no batches
	for _, test := range []struct {
		name    string
		r       reading
		columns int
		want    string
	}{
		{"no rate yet", first, 120, "replay  [===========                      ]  33%  1,000,000/3,000,000 events   5/16 batches"},
		{"rate", later, 120, "replay  [=============                    ]  40%  1,200,000/3,000,000 events   6/16 batches  100,000/s  eta 18s"},
		{"longest", later, 200, "replay  [================                        ]  40%  1,200,000/3,000,000 events   6/16 batches  100,000/s  eta 18s"},
		{"no room for a bar", later, 90, "replay  40%  1,200,000/3,000,000 events   6/16 batches  100,000/s  eta 18s"},
		{"cut off", later, 30, "replay  40%  1,200,000/3,000,"},
		{"no room", later, 0, ""},
		{"merge", merge, 60, "merge   [================                ]  50%  1/2 tables"},
		{"index", index, 60, "index   [================                ]  50%  1/2 tables"},
		{"no batches", small, 120, "replay  [==========                              ]  25%   30/120 events"},
	} {
		if got := test.r.bar(test.columns); got != test.want {
			t.Errorf("%s:\n got %q\nwant %q", test.name, got, test.want)
		} else if len(got) >= max(1, test.columns) {
			t.Errorf("%s: %d columns in a terminal of %d", test.name, len(got), test.columns)
		}
	}
}

// The bar keeps its place and its length, and neither it nor the total goes back: the estimate of the total can, and so can
// the events, when a batch is taken back.
func TestBarIsSteady(t *testing.T) {
	t.Parallel()
	var p pace
	var got []string
	for second, events := range []struct{ done, all int64 }{{0, 1_000}, {999, 4_000}, {1_500, 3_000}, {1_000, 3_000}, {2_999, 3_000}, {3_000, 3_000}} {
		progress := replay.Progress{Phase: replay.PhaseReplay, Batches: 10, BatchesDone: int(events.done / 300), Events: events.all, EventsDone: events.done}
		got = append(got, p.read(progress, start.Add(time.Duration(second)*time.Second)).bar(100))
	}
	want := []string{
		"replay  [                     ]   0%      0/1,000 events   0/10 batches",
		"replay  [=====                ]  24%    999/4,000 events   3/10 batches  999/s  eta 3s",
		"replay  [==========           ]  50%  1,500/4,000 events   5/10 batches  750/s  eta 2s",
		"replay  [==========           ]  50%  1,000/4,000 events   3/10 batches  333/s  eta 6s",
		"replay  [==================== ]  99%  2,999/4,000 events   9/10 batches  749/s  eta 0s",
		"replay  [=====================] 100%  3,000/4,000 events  10/10 batches  600/s  eta 0s",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

// The rate is that of the last seconds, and a batch that is taken back is no negative rate.
func TestRate(t *testing.T) {
	t.Parallel()
	var p pace
	done := int64(0)
	var r reading
	for second := range 60 {
		if second <= 30 {
			done += 10_000
		} else {
			done += 1_000
		}
		r = p.read(replaying(done), start.Add(time.Duration(second)*time.Second))
	}
	if r.Rate != 1_000 {
		t.Errorf("rate %f, want that of the last seconds: 1000", r.Rate)
	}
	if len(p.marks) > 20 {
		t.Errorf("%d marks are kept", len(p.marks))
	}
	if r = p.read(replaying(0), start.Add(time.Minute)); r.Rate != 0 || r.Left != 0 {
		t.Errorf("after a batch was taken back: %f events/s, %s left", r.Rate, r.Left)
	}
}

// A log has no line about what is done within seconds, and none that says no more than the answer.
func TestShowAtIntervals(t *testing.T) {
	t.Parallel()
	now := start
	var first, lines []string
	record := func(list *[]string) func(reading) {
		return unlessDone(func(r reading) { *list = append(*list, r.line()) })
	}
	clock := func() time.Time { return now }
	reports := []func(replay.Progress){show(clock, 0, 30*time.Second, record(&first)), show(clock, 10*time.Second, 10*time.Second, record(&lines))}
	for second := range 31 {
		now = start.Add(time.Duration(second) * time.Second)
		for _, report := range reports {
			if second < 30 {
				report(replaying(int64(second) * 100_000))
			} else {
				report(replay.Progress{Phase: replay.PhaseDone, Events: 3_000_000, EventsDone: 3_000_000})
			}
		}
	}
	if len(first) != 1 || first[0] != "replay 0%  0/3,000,000 events  0/16 batches" {
		t.Errorf("got %q", first)
	}
	want := []string{
		"replay 33%  1,000,000/3,000,000 events  5/16 batches  100,000/s  eta 20s",
		"replay 66%  2,000,000/3,000,000 events  10/16 batches  100,000/s  eta 10s",
	}
	if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestProgressJSON(t *testing.T) {
	t.Parallel()
	var p pace
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	for second := range 2 {
		progress := replaying(int64(second) * 100_000)
		progress.Elapsed = time.Duration(second) * time.Second
		if err := out.Encode(newProgressView(p.read(progress, start.Add(progress.Elapsed)))); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"type":"progress","phase":"replay","batches":16,"batches_done":0,"events":3000000,"events_done":0,"rows":0,"events_per_second":0,"left_seconds":null,"elapsed_seconds":0}
{"type":"progress","phase":"replay","batches":16,"batches_done":0,"events":3000000,"events_done":100000,"rows":50000,"events_per_second":100000,"left_seconds":29,"elapsed_seconds":1}
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

// Logs scroll by above the bar, which is redrawn and at last removed.
func TestScreen(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	s := &screen{w: &b}
	write := func(text string) {
		if _, err := s.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n")
	s.draw("one")
	s.draw("one")
	write("log\n")
	s.draw("two")
	s.draw("")
	write("after\n")
	want := strings.ReplaceAll("before\n<one<log\none<two<after\n", "<", eraseLine)
	if b.String() != want {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
}
