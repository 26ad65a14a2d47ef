package docs_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/viewschema/projector/internal/pglocal"
	"github.com/viewschema/projector/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var fence = regexp.MustCompile("(?ms)^```(\\w+) ?(\\S*)\n(.*?)^```$")

// The tutorial's files are written and its commands run, in its order, and what they print is what it says. In the text, … stands
// for a part of a line, and alone on a line for any number of lines.
func TestTutorial(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(t)
	for _, block := range fence.FindAllSubmatch(text, -1) {
		language, file, body := string(block[1]), string(block[2]), string(block[3])
		switch {
		case file != "":
			r.write(t, file, body)
		case language == "console":
			for command := range strings.SplitSeq("\n"+body, "\n$ ") {
				if command, want, _ := strings.Cut(command, "\n"); command != "" {
					r.do(t, command, strings.TrimSuffix(want, "\n"))
				}
			}
		default:
			t.Errorf("the tutorial has a block of %s that is no file: nothing tests it", language)
		}
	}
}

// reader is somebody who follows the tutorial.
type reader struct {
	folder string
	env    []string
	module string // ours
	url    string
}

func newReader(t *testing.T) *reader {
	t.Helper()
	module, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	if found, err := pglocal.Find(os.Getenv); err == nil {
		path += string(os.PathListSeparator) + found.Dir
	}
	r := &reader{folder: t.TempDir(), module: module, url: pgtest.DatabaseURL(t, nil)}
	r.env = append(os.Environ(), "PATH="+path, "DATABASE_URL="+r.url, "GOFLAGS=-mod=mod", "GOWORK=off", "NO_COLOR=1")
	if _, err := exec.LookPath("psql"); err != nil && errors.Is(err, exec.ErrNotFound) {
		if _, err := os.Stat(filepath.Join(strings.TrimPrefix(path, os.Getenv("PATH")+string(os.PathListSeparator)), "psql")); err != nil {
			t.Skip("the tutorial needs psql, which is not on this machine")
		}
	}
	return r
}

func (r *reader) write(t *testing.T, file, body string) {
	t.Helper()
	path := filepath.Join(r.folder, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

// do runs a command of the text. Three of them depend on the reader's machine: the folder is a new one anyway, the database is
// the test's, and the module is this one and not the published one.
func (r *reader) do(t *testing.T, command, want string) {
	t.Helper()
	switch command {
	case "mkdir shop && cd shop", "export DATABASE_URL=postgres://localhost/shop":
		return
	case "go get github.com/viewschema/projector":
		command = "go mod edit -require=github.com/viewschema/projector@v0.0.0 -replace=github.com/viewschema/projector=" + r.module
	}
	if background, ok := strings.CutSuffix(command, " &"); ok {
		r.start(t, background)
		return
	}
	shell := r.shell(t, command)
	output, err := shell.CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed { // what fails says so
		t.Fatal(err)
	}
	if !expected(want).Match(output) {
		t.Fatalf("$ %s\ngot:\n%s\nwant:\n%s", command, output, want)
	}
}

func (r *reader) shell(t *testing.T, command string) *exec.Cmd {
	shell := exec.CommandContext(t.Context(), "bash", "-c", command)
	shell.Dir, shell.Env = r.folder, r.env
	return shell
}

// start runs a command until the test ends.
func (r *reader) start(t *testing.T, command string) {
	t.Helper()
	shell := r.shell(t, "exec "+command)
	var output bytes.Buffer
	shell.Stdout, shell.Stderr = &output, &output
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the test's context has ended, and with it the command
		_ = shell.Wait()
		if t.Failed() {
			t.Logf("$ %s &\n%s", command, output.String())
		}
	})
}

// expected makes an expression of what the text says that a command prints.
func expected(want string) *regexp.Regexp {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for line := range strings.Lines(want) {
		line = strings.TrimSuffix(line, "\n")
		if line == "…" {
			pattern.WriteString(`(?:.*\n)*`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + "\n")
	}
	pattern.WriteString(`\z`)
	return regexp.MustCompile(pattern.String())
}
