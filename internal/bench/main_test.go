package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viewschema/projector/estimate"
)

func TestMain(m *testing.M) {
	asWorker(os.Getenv(workerVariable))
	os.Exit(m.Run())
}

func TestEveryRowHasAValue(t *testing.T) {
	t.Parallel()
	file, rates := filepath.Join(t.TempDir(), "report.json"), filepath.Join(t.TempDir(), "rates.json")
	var stdout, stderr bytes.Buffer
	exit := run(t.Context(), []string{"-events", "20000", "-repeat", "1", "-only", "1,2,3,4,5,7,8,9,11,12,13,14", "-large", "-json", file, "-rates", rates}, os.Getenv, &stdout, &stderr)
	if exit != 0 {
		t.Fatalf("exit code %d\n%s", exit, &stderr)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	measured := map[int]int{}
	for _, row := range r.Rows {
		measured[row.Row]++
		if positive := row.Measured > 0; positive == (row.Row == 9) { // the ledger of a quiet store is empty
			t.Errorf("row %d, %s: %g", row.Row, row.What, row.Measured)
		}
		if !strings.Contains(stdout.String(), row.What) {
			t.Errorf("the table lacks %q:\n%s", row.What, &stdout)
		}
	}
	for row, want := range map[int]int{1: 2, 2: 1, 3: 2, 4: 1, 5: 1, 6: 0, 7: 1, 8: 1, 9: 1, 10: 0, 11: 1, 12: 8, 13: 12, 14: 3} {
		if measured[row] != want {
			t.Errorf("row %d is there %d times, want %d", row, measured[row], want)
		}
	}
	if got, err := estimate.ReadRates(rates); err != nil || got != *r.Rates {
		t.Errorf("the rates are %+v, %v", got, err)
	}
	for _, e := range r.Estimates {
		if e.Estimate <= 0 || e.Rebuild <= 0 || e.Said.Replay <= 0 || e.Took.Replay <= 0 {
			t.Errorf("the estimate %+v lacks something", e)
		}
	}
	for _, s := range r.Sizes {
		if large := s.Events > 20_000; large != (s.Floor == 0) || s.Rebuild <= 0 || s.PeakMiB <= 0 || len(s.Times) == 0 {
			t.Errorf("the size %+v lacks something", s)
		}
	}
}

func TestAnInterruptionLeavesNothing(t *testing.T) {
	t.Parallel()
	temp, err := os.MkdirTemp("/tmp", "bench-") // t.TempDir is closed to the user that runs PostgreSQL for root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	env := func(name string) string {
		if name == "TMPDIR" {
			return temp
		}
		return os.Getenv(name)
	}
	stderr := writer(func(line string) {
		if strings.Contains(line, "making") {
			cancel()
		}
	})
	if exit := run(ctx, []string{"-only", "2"}, env, &bytes.Buffer{}, stderr); exit != 130 {
		t.Errorf("exit code %d", exit)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// writer is called with what is written.
type writer func(string)

func (w writer) Write(p []byte) (int, error) {
	w(string(p))
	return len(p), nil
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"":                            true,
		"-only 1,5 -events 10000":     true,
		"-large -json x":              true,
		"-only 14 -rates x":           true,
		"-only 99":                    false,
		"-only one":                   false,
		"-events 9999":                false,
		"-repeat 0":                   false,
		"rows":                        false,
		"-workers 4 -only 1 -only 10": true,
	} {
		var stderr bytes.Buffer
		if _, err := parse(strings.Fields(line), &stderr); (err == nil) != want || (stderr.Len() == 0) != want {
			t.Errorf("%q: %v, %q", line, err, &stderr)
		}
	}
}
