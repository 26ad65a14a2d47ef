package dashboard

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/watching.md lists all metrics, with the words of their HELP.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/watching.md")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, m := range metrics {
		want = append(want, fmt.Sprintf("| `%s` | %s |", m.name, m.help))
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `projector_") {
			got = append(got, strings.TrimSuffix(line, "\n"))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the table should be\n%s", strings.Join(want, "\n"))
	}
	checkNames(t, string(text))
}

// docs/grafana.json is JSON, and asks for metrics and labels that there are.
func TestGrafana(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if !strings.Contains(target.Expr, `schema="$schema"`) {
				t.Errorf("panel %s is not of one schema: %s", p.Title, target.Expr)
			}
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %s shows nothing", p.Title)
		}
	}
	if names := checkNames(t, string(text)); len(names) < 15 {
		t.Errorf("it shows %v only", names)
	}
}

// checkNames wants that each metric named in the text exists, and returns them.
func checkNames(t *testing.T, text string) []string {
	t.Helper()
	names := regexp.MustCompile(`\bprojector_[a-z_]+`).FindAllString(text, -1)
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		if !slices.ContainsFunc(metrics, func(m metric) bool { return m.name == name }) {
			t.Errorf("there is no metric %s", name)
		}
	}
	return names
}
