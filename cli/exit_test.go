package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
