package main

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMarkdown(t *testing.T) {
	t.Parallel()
	r := report{
		PostgreSQL: "17.5", Settings: map[string]string{"work_mem": "16MB", "shared_buffers": "1GB"}, Go: "go1.26", System: "linux/amd64",
		Cores: 2, Workers: 2, Repeat: 3, Flags: []string{"-only", "1,2"}, Began: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC), Took: 612,
		Notes: []string{"row 10: the rebuild takes 9.50 s", "row 10: the plan says: reading 2 passes"},
	}
	spread := row{Row: 1, What: "rebuild ÷ floor, 3,000,000 events", Measured: 1.404, Must: new(1.6), Aim: new(1.25)}
	for _, measured := range []float64{1.404, 1.351, 1.449} {
		spread.spread(measured)
	}
	same := row{Row: 2, What: "measured once", Measured: 10, Must: new(11.0)}
	same.spread(10)
	r.add(spread, same,
		row{Row: 5, What: "seconds", Measured: 0.084, Unit: "s", Must: new(0.5), Aim: new(0.2)},
		row{Row: 6, What: "memory", Measured: 97.4, Unit: "MiB", Must: new(256.0), Aim: new(128.0)},
		row{Row: 9, What: "nothing at all", Must: new(0.0), Aim: new(0.0)})
	seconds := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	rebuild := func(wall float64) outcome {
		return outcome{Wall: seconds(wall), Peak: 97 << 20, Times: map[string]float64{"read": 2, "decode": 1, "apply": 1, "write": 4}}
	}
	r.Sizes = append(
		r.Sizes,
		newSize(3_000_000, &comparison{
			floors:   []floorTimes{{seconds(2), seconds(1), seconds(2)}, {seconds(3), seconds(1), seconds(2)}, {seconds(3), seconds(2), seconds(2)}},
			rebuilds: []outcome{rebuild(9), rebuild(7.5), rebuild(8)},
		}),
		newSize(30_000_000, &comparison{rebuilds: []outcome{rebuild(80)}}),
	)
	var got bytes.Buffer
	if err := r.markdown(&got); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/report.md"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || got.String() != string(want) {
		t.Errorf("%v; got\n%s", err, &got)
	}
}

// What was measured with few events is not held against what is for many.
func TestBoundsAreForOneSize(t *testing.T) {
	t.Parallel()
	r := report{}
	r.add(row{Row: 5, Must: new(0.5)}, row{Row: 7, Must: new(6.0), Aim: new(3.0)})
	r.unbounded()
	if few, catchUp := r.Rows[0], r.Rows[1]; few.Must == nil || catchUp.Must != nil || catchUp.Aim != nil {
		t.Errorf("%+v", r.Rows)
	}
}
