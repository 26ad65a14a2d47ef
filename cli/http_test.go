package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/cli"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
)

// bankCommand runs the bank's first release on the database, with its answers and its logs in two pipes, and returns its exit code
// when it has ended.
func bankCommand(ctx context.Context, t *testing.T, url string, args ...string) (stdout, stderr *bufio.Scanner, exit chan int) {
	t.Helper()
	out, toOut := io.Pipe()
	logs, toLogs := io.Pipe()
	exit = make(chan int, 1)
	go func() {
		exit <- cli.Run(ctx, v1.Definition, cli.Process{Args: append([]string{"bank"}, args...), Stdout: toOut, Stderr: toLogs, Getenv: func(name string) string {
			return map[string]string{"DATABASE_URL": url}[name]
		}})
		toOut.Close()
		toLogs.Close()
	}()
	return bufio.NewScanner(out), bufio.NewScanner(logs), exit
}

// drain reads the rest, so that a command can go on writing.
func drain(lines *bufio.Scanner) (rest string) {
	for lines.Scan() {
		rest += lines.Text() + "\n"
	}
	return rest
}

func ask(t *testing.T, url string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// Serve says where the page is, and serves it until it is interrupted.
func TestServe(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	stdout, stderr, exit := bankCommand(ctx, t, pgtest.DatabaseURL(t, filledStore), "--json", "serve", "--http", "127.0.0.1:0")
	go drain(stderr)
	if !stdout.Scan() {
		t.Fatalf("it has ended with %d", <-exit)
	}
	var view struct{ Type, URL string }
	if err := json.Unmarshal(stdout.Bytes(), &view); err != nil || view.Type != "serve" || !strings.HasPrefix(view.URL, "http://127.0.0.1:") {
		t.Fatalf("it says %s; %v", stdout.Text(), err)
	}
	for path, want := range map[string]string{"/": "<title>", "/overview.json": `"target":1`, "/metrics": `projector_target_version{schema="view_schema"} 1`, "/healthz": "ok"} {
		if status, body := ask(t, view.URL+path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %s", path, status, body)
		}
	}
	interrupt()
	if rest, code := drain(stdout), <-exit; code != 130 || rest != "" {
		t.Errorf("interrupted, it ends with %d and %s", code, rest)
	}
	if status, body := ask(t, view.URL); status != 0 {
		t.Errorf("after its end: %d, %s", status, body)
	}
}

// The page beside a command is there from its beginning to its end.
func TestPageBesideACommand(t *testing.T) {
	t.Parallel()
	url := pgtest.DatabaseURL(t, filledStore)
	stdout, stderr, exit := bankCommand(t.Context(), t, url, "--json", "--no-progress", "migrate", "online", "--follow", "--http", "127.0.0.1:0")
	var page struct{ URL string }
	for page.URL == "" && stderr.Scan() {
		if err := json.Unmarshal(stderr.Bytes(), &page); err != nil {
			t.Fatalf("%s: %v", stderr.Text(), err)
		}
	}
	go drain(stderr)
	if !stdout.Scan() || !strings.Contains(stdout.Text(), `"state":"built"`) {
		t.Fatalf("it says %s", stdout.Text())
	}
	if status, body := ask(t, page.URL+"/healthz"); status != http.StatusOK {
		t.Errorf("%d, %s", status, body)
	}
	quiet := func(args ...string) {
		t.Helper()
		out, logs, ended := bankCommand(t.Context(), t, url, args...)
		go drain(logs)
		if text, code := drain(out), <-ended; code != 0 {
			t.Errorf("%v ends with %d: %s", args, code, text)
		}
	}
	quiet("migrate", "offline")
	if rest, code := drain(stdout), <-exit; code != 0 || !strings.Contains(rest, `"command":"follow"`) {
		t.Errorf("it ends with %d and %s", code, rest)
	}
	if status, body := ask(t, page.URL); status != 0 {
		t.Errorf("after its end: %d, %s", status, body)
	}
}

// An address that is taken is refused before anything is touched, even before the database is asked.
func TestAddressIsTaken(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	url := pgtest.DatabaseURL(t, filledStore)
	for _, args := range [][]string{{"serve"}, {"migrate", "online"}, {"migrate", "catchup"}, {"migrate", "offline"}, {"rollback"}} {
		stdout, stderr, exit := bankCommand(t.Context(), t, url, append(args, "--http", l.Addr().String())...)
		go drain(stdout)
		logs := drain(stderr)
		if code := <-exit; code != 2 || !strings.Contains(logs, "--http "+l.Addr().String()) || !strings.Contains(logs, "address already in use; choose another address") {
			t.Errorf("%v ends with %d: %s", args, code, logs)
		}
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var touched bool
	if err := conn.QueryRow(t.Context(), "select to_regnamespace('view_schema') is not null").Scan(&touched); err != nil || touched {
		t.Errorf("something was touched: %v, %v", touched, err)
	}
}
