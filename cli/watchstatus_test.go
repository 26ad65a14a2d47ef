package cli_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pgtest"
)

// Watching a status tells each change once, and ends when the migration that has come is over.
func TestWatchStatus(t *testing.T) {
	t.Parallel()
	url := pgtest.DatabaseURL(t, filledStore)
	stdout, stderr, exit := bankCommand(t.Context(), t, url, "--json", "status", "--watch", "--interval", "1ms")
	go drain(stderr)
	var last string
	next := func(want string) {
		t.Helper()
		for stdout.Scan() {
			if stdout.Text() == last {
				t.Errorf("twice: %s", last)
			}
			last = stdout.Text()
			if strings.Contains(last, want) {
				return
			}
		}
		t.Fatalf("it has ended without %s, with %d: %s", want, <-exit, last)
	}
	other := func(args ...string) {
		t.Helper()
		out, logs, ended := bankCommand(t.Context(), t, url, args...)
		go drain(logs)
		done := make(chan string, 1)
		go func() { done <- drain(out) }()
		if code := <-ended; code != 0 {
			t.Errorf("%v ends with %d: %s", args, code, <-done)
		}
	}
	next(`"current":0,"target":1,"migration":null`)
	migrated := make(chan struct{})
	go func() {
		defer close(migrated)
		other("migrate", "online")
	}()
	next(`"state":"built"`)
	<-migrated
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"); err != nil {
		t.Fatal(err) // as a server does that restarts
	}
	if _, err := conn.Exec(t.Context(), "insert into events (aggregate_id, sequence_number, event_type, data) values (gen_random_uuid(), 1, 'AccountOpened', '{}')"); err != nil {
		t.Fatal(err)
	}
	next(`"tail":1,`)
	go other("migrate", "offline")
	next(`"current":1,"target":1,"migration":null`)
	if rest, code := drain(stdout), <-exit; code != 0 || rest != "" {
		t.Errorf("it ends with %d and %s", code, rest)
	}
	if !json.Valid([]byte(last)) {
		t.Errorf("no JSON: %s", last)
	}
}

// It also ends when it is interrupted, and as text it can be read in a log.
func TestWatchStatusInterrupted(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	stdout, stderr, exit := bankCommand(ctx, t, pgtest.DatabaseURL(t, filledStore), "status", "--watch")
	go drain(stderr)
	if !stdout.Scan() || !strings.HasPrefix(stdout.Text(), "schema ") {
		t.Errorf("it begins with %q", stdout.Text())
	}
	interrupt()
	if rest, code := drain(stdout), <-exit; code != 130 || !strings.HasSuffix(rest, "next: bank migrate online\n") {
		t.Errorf("it ends with %d and %s", code, rest)
	}
}
