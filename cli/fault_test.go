package cli_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/viewschema/projector/cli"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pg"
)

// What a fault does is in internal/crashtest.
func TestFaultsThatMeanNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"batch", "before", "during:batch", "before:batches", "before:batch:", "before:batch:0", "before:batch:x", "before:batch:1:1"} {
		var stderr bytes.Buffer
		exit := cli.Run(t.Context(), v1.Definition, cli.Process{
			Args: []string{"bank", "init"}, Stderr: &stderr,
			Getenv: func(name string) string { return map[string]string{"PROJECTOR_FAULT": text}[name] },
		})
		if exit != 2 || !strings.HasPrefix(stderr.String(), "bank: PROJECTOR_FAULT="+text+": write before or after, a point,") {
			t.Errorf("%s: exit code %d, %s", text, exit, &stderr)
		}
		for _, point := range pg.Points {
			if !strings.Contains(stderr.String(), string(point)) {
				t.Errorf("%s: %s does not list %s", text, &stderr, point)
			}
		}
	}
}
