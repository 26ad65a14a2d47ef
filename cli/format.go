package cli

import (
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/viewschema/projector/internal/pg"
)

// number writes n with commas: 1,234,567.
func number(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// count writes a number of things.
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

func events(n int64) string { return count(n, "event", "events") }

func rows(n int64) string { return count(n, "row", "rows") }

func aggregates(n int) string { return count(int64(n), "aggregate", "aggregates") }

// oneLine joins the lines of a text, for a table's cell.
func oneLine(text string) string {
	var parts []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(strings.TrimSpace(line), ";"); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}

// duration rounds d to what a person wants to know: 23ms, 4.2s, 3m12s.
func duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// seconds is a duration in JSON.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// size writes a number of bytes as PostgreSQL's pg_size_pretty does, in powers of 1024.
func size(bytes int64) string { return pg.Size(bytes) }

// table aligns rows of cells that are separated by tabs.
func table(w io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
}
