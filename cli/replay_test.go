package cli_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viewschema/projector/cli"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
)

// A file that changes is a table that is made anew; one that is wrong is told once, and the next change is seen all the same.
func TestWatch(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.CopyFS(folder, v1.Definition.Views); err != nil {
		t.Fatal(err)
	}
	url := pgtest.DatabaseURL(t, filledStore)
	load := func(string) (cli.Config, error) {
		d := v1.Definition
		d.Views = os.DirFS(folder)
		_, err := os.Stat(folder)
		return cli.Config{Definition: d}, err
	}
	run := func(ctx context.Context, stdout, stderr io.Writer, args ...string) int {
		getenv := func(name string) string { return map[string]string{"DATABASE_URL": url}[name] }
		process := cli.Process{Args: append([]string{"bank", "--no-progress"}, args...), Stdout: stdout, Stderr: stderr, Getenv: getenv}
		return cli.Run(ctx, v1.Definition, process, cli.WithConfig(load))
	}
	if exit := run(t.Context(), nil, t.Output(), "tables", "create"); exit != 0 {
		t.Fatalf("tables create: exit code %d", exit)
	}

	ctx, interrupt := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, in, in, "replay", "--yes", "--watch")
		in.Close()
	}()
	lines := bufio.NewScanner(out)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.Contains(lines.Text(), want) {
			t.Fatalf("got the line %q, want one with %q", lines.Text(), want)
		}
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, "accounts.sql"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sql, err := os.ReadFile(filepath.Join(folder, "accounts.sql"))
	if err != nil {
		t.Fatal(err)
	}
	expect("made anew by accounts, transactions: 2,000 events")
	write(string(sql) + "\nalter table accounts%SUFFIX% add column note text;\n")
	expect("made anew by accounts: ")
	write(string(sql) + "\nalter table accounts%SUFFIX% add colum note text;\n")
	expect(`syntax error at or near "text"`)
	for lines.Text() != "" && !strings.Contains(lines.Text(), "^") { // the place of it
		if !lines.Scan() {
			t.Fatal("the watch has ended")
		}
	}
	write(string(sql))
	expect("made anew by accounts: ")
	interrupt()
	expect("interrupted")
	if exit := <-ended; exit != 130 {
		t.Errorf("exit code %d, want 130", exit)
	}
}
