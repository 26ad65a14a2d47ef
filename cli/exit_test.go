package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/viewschema"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{t.Context(), nil, 0},
		{canceled, nil, 0}, // it was done before the signal took effect
		{t.Context(), errors.New("no space left"), 1},
		{t.Context(), viewschema.ErrLockWait, 1},
		{t.Context(), usagef("what?"), 2},
		{t.Context(), viewschema.ErrDefinition, 2},
		{t.Context(), viewschema.ErrRefused, 2},
		{t.Context(), viewschema.ErrChanged, 2},
		{t.Context(), &quietError{exitPending}, 3},
		{t.Context(), viewschema.ErrOtherMigration, 4},
		{t.Context(), viewschema.ErrState, 5},
		{t.Context(), viewschema.ErrBelowCurrent, 5},
		{t.Context(), viewschema.ErrSpace, 6},
		{t.Context(), urfave.Exit("differences", 3), 3},
		{canceled, context.Canceled, 130},
		{canceled, errors.New("connection closed"), 130},
		{t.Context(), context.Canceled, 1}, // nobody interrupted: something else went wrong
	} {
		err := test.err
		if err != nil {
			err = fmt.Errorf("so: %w", err)
		}
		if got := exitCode(test.ctx, err); got != test.want {
			t.Errorf("%v: exit code %d, want %d", err, got, test.want)
		}
	}
}

// Joined errors are counted and indented; programs get the text as it is.
func TestErrorsOfSeveralLines(t *testing.T) {
	t.Parallel()
	a, b, c := errors.New("version 2 replays projector acounts"), errors.New("accounts.sql: no table"), errors.New("accounts.sql: syntax error\nat line 3")
	for _, test := range []struct {
		err  error
		want string
	}{
		{a, a.Error()},
		{errors.Join(nil, a), a.Error()},
		{c, "accounts.sql: syntax error\n  at line 3"},
		{fmt.Errorf("%w: %w", viewschema.ErrDefinition, errors.Join(a)), "the definition has errors: version 2 replays projector acounts"},
		{
			fmt.Errorf("%w: %w", viewschema.ErrDefinition, errors.Join(a, nil, errors.Join(b, c))),
			"the definition has errors, 3 in all:\n  version 2 replays projector acounts\n  accounts.sql: no table\n  accounts.sql: syntax error\n    at line 3",
		},
		{errors.Join(a, b), "2 in all:\n  version 2 replays projector acounts\n  accounts.sql: no table"},
		{fmt.Errorf("%w; try again", errors.Join(a, b)), "version 2 replays projector acounts\n  accounts.sql: no table; try again"},
	} {
		var stdout, stderr bytes.Buffer
		p := &program{Process: Process{Stdout: &stdout, Stderr: &stderr}, name: "bank", json: true}
		code := p.end(t.Context(), test.err)
		if got := stderr.String(); got != "bank: "+test.want+"\n" {
			t.Errorf("got  %q\nwant %q", got, "bank: "+test.want+"\n")
		}
		var document errorView
		if err := json.Unmarshal(stdout.Bytes(), &document); err != nil || document != (errorView{"error", test.err.Error(), code}) {
			t.Errorf("got %s: %v", &stdout, err)
		}
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	p := &program{Process: Process{Stdout: &stdout, Stderr: &stderr}, name: "bank", json: true}
	if code := p.end(ctx, errors.New("batch 3: context canceled")); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	const want = "interrupted; what was committed stays, and the same command goes on from there"
	if got := stderr.String(); got != "bank: "+want+"\n" {
		t.Errorf("got %q", got)
	}
	if got := stdout.String(); got != `{"type":"error","error":"`+want+`","exit":130}`+"\n" {
		t.Errorf("got %q", got)
	}
}

// An added command knows better what an interruption of it means.
func TestInterruptedCommandOfTheApplication(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	p := &program{Process: Process{Stdout: io.Discard, Stderr: &stderr}, name: "bank"}
	if code := p.end(ctx, urfave.Exit("interrupted; nothing is left", exitInterrupted)); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if got := stderr.String(); got != "bank: interrupted; nothing is left\n" {
		t.Errorf("got %q", got)
	}

	stderr.Reset()
	ctx, because := context.WithCancelCause(t.Context())
	because(urfave.Exit("stopped", exitInterrupted))
	if code := p.end(ctx, context.Canceled); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if got := stderr.String(); got != "bank: stopped\n" {
		t.Errorf("got %q", got)
	}
}
