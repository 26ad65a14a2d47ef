package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/viewschema/projector/config"
)

// What new writes can be read, for every preset and for none.
func TestNew(t *testing.T) {
	t.Parallel()
	for _, preset := range append(presetNames(), "") {
		t.Run(preset, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "some", "folder")
			exit, stdout, stderr := run(t, "new", "--preset", preset, folder)
			if exit != 0 || !strings.Contains(stdout, "projector plan\n") {
				t.Fatalf("exit code %d\n%s%s", exit, stdout, stderr)
			}
			c, err := config.Load(filepath.Join(folder, "projector.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Definition.Source.Preset; got != preset {
				t.Errorf("the preset is %q", got)
			}
			if c.Database != "" || c.EventsDatabase != "" {
				t.Error("a database is named that nobody has")
			}
			for line := range strings.Lines(stdout) {
				if name := strings.TrimSpace(line); strings.HasPrefix(name, folder) {
					text, err := os.ReadFile(name)
					if err != nil || strings.Contains(string(text), "{{") {
						t.Errorf("%v\n%s", err, text)
					}
				}
			}
		})
	}
}

func TestNewChangesNoFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	mine := filepath.Join(folder, "sql", "views", "activity.sql")
	if err := os.MkdirAll(filepath.Dir(mine), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	exit, _, stderr := run(t, "new", folder)
	if want := "projector: nothing was written, since it exists: " + mine + "\n"; exit != 2 || stderr != want {
		t.Errorf("exit code %d, %s", exit, stderr)
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "mine" {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(folder, "projector.yaml")); !os.IsNotExist(err) {
		t.Error("something was written")
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ args, want string }{
		{"--json new", "projector: new has no --json\n"},
		{"new --preset sequnt", "projector: --preset sequnt: use one of: sequent, sequent8, axon, "},
		{"new folder --preset sequent", "projector: new takes one folder, and flags go first: projector new --preset sequent folder\n"},
	} {
		if exit, _, stderr := run(t, strings.Fields(test.args)...); exit != 2 || !strings.HasPrefix(stderr, test.want) {
			t.Errorf("%s: exit code %d, %s", test.args, exit, stderr)
		}
	}
}

// new knows the presets that the file does.
func TestPresets(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../projector.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Source struct {
				Properties struct{ Preset struct{ Enum []string } }
			}
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	if known := schema.Properties.Source.Properties.Preset.Enum; !slices.Equal(known, presetNames()) {
		t.Errorf("the file knows the presets %q", known)
	}
}

func TestNoFile(t *testing.T) {
	t.Parallel()
	const want = "projector: there is no projector.yaml here; name another file with --config, or begin one: projector new\n"
	if exit, _, stderr := run(t, "plan"); exit != 2 || stderr != want {
		t.Errorf("exit code %d, %s", exit, stderr)
	}
}
