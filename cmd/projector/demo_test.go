package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/viewschema"
)

func run(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	process := cli.Process{Args: append([]string{"projector"}, args...), Stdout: &out, Stderr: &err}
	exit = cli.Run(t.Context(), viewschema.Definition{}, process, options()...)
	return exit, out.String(), err.String()
}

func TestDemoRefuses(t *testing.T) {
	t.Parallel()
	const numbers = "projector: --events must be at least 1, --writers at least 0\n"
	for _, test := range []struct{ args, want string }{
		{"--json demo", "projector: demo has no --json\n"},
		{"demo --events 0", numbers},
		{"demo --events -1", numbers},
		{"demo --writers -1", numbers},
	} {
		if exit, _, stderr := run(t, strings.Fields(test.args)...); exit != 2 || stderr != test.want {
			t.Errorf("%s: exit code %d, %s", test.args, exit, stderr)
		}
	}
}

func TestDemoHelp(t *testing.T) {
	t.Parallel()
	exit, stdout, _ := run(t, "demo", "--help")
	if exit != 0 {
		t.Errorf("exit code %d", exit)
	}
	for line := range strings.Lines(stdout) {
		if strings.Count(line, "(default") > 1 || strings.Contains(line, "(default: false)") {
			t.Error(line)
		}
	}
	if !strings.Contains(stdout, "of the made-up customers [$PROJECTOR_SEED] (default: random)\n") {
		t.Errorf("got\n%s", stdout)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		number(0): "0", number(999): "999", number(1_000): "1,000", number(int64(1_234_005)): "1,234,005",
		count(1, "writer"): "1 writer", count(2, "writer"): "2 writers", count(5_000, "event"): "5,000 events",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
