package docs_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/examples/bank"
)

// The commands of the runbook exist, with their flags.
func TestOperations(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("operations.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?m)(?:^|`)projector ([a-z][^#`\n]*)").FindAllStringSubmatch(string(text), -1)
	if len(found) < 10 {
		t.Fatalf("the runbook has %d commands", len(found))
	}
	for _, m := range found {
		words := strings.Fields(m[1])
		flags := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") })
		if flags < 0 {
			flags = len(words)
		}
		var help, failed bytes.Buffer
		args := append(append([]string{"projector"}, words[:flags]...), "--help")
		if exit := cli.Run(t.Context(), bank.Definition, cli.Process{Args: args, Stdout: &help, Stderr: &failed}); exit != 0 {
			t.Errorf("projector %s: exit code %d, %s", m[1], exit, failed.String())
		}
		for _, w := range words[flags:] {
			if name, _, _ := strings.Cut(w, "="); strings.HasPrefix(w, "--") && !strings.Contains(help.String(), "  "+name) {
				t.Errorf("projector %s has no flag %s", strings.Join(words[:flags], " "), name)
			}
		}
	}
}
