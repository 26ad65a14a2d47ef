package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	urfave "github.com/urfave/cli/v2"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/viewschema"
)

// Exit codes; doc.go says what they mean.
const (
	exitDone        = 0
	exitFailed      = 1
	exitRefused     = 2
	exitPending     = 3
	exitOther       = 4
	exitState       = 5
	exitInterrupted = 130
)

// usageError is something wrong with the command line itself.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// quietError is an exit code whose reason is in the answer.
type quietError struct{ code int }

func (e *quietError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// ExitCode implements urfave.ExitCoder.
func (e *quietError) ExitCode() int { return e.code }

// exitCode returns the exit code for what a command returned.
func exitCode(ctx context.Context, err error) int {
	var usage *usageError
	var coder urfave.ExitCoder
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		return exitRefused
	case errors.As(err, &coder):
		return coder.ExitCode()
	case ctx.Err() != nil:
		return exitInterrupted
	case is(viewschema.ErrLockWait):
		return exitFailed
	case is(viewschema.ErrOtherMigration):
		return exitOther
	case is(viewschema.ErrState, viewschema.ErrBelowCurrent):
		return exitState
	case is(viewschema.ErrDefinition, viewschema.ErrRefused, viewschema.ErrChanged, eventstore.ErrMapping):
		return exitRefused
	}
	return exitFailed
}

// errorView is how an error is told to programs.
type errorView struct {
	Type  string `json:"type"`
	Error string `json:"error"`
	Exit  int    `json:"exit"`
}

// end reports what a command returned and returns the exit code for it.
func (p *program) end(ctx context.Context, err error) int {
	code := exitCode(ctx, err)
	var quiet *quietError
	if err == nil || errors.As(err, &quiet) {
		return code
	}
	text := err.Error()
	if code == exitInterrupted {
		text = "interrupted; what was committed stays, and the same command goes on from there"
	}
	if p.json {
		// If standard output is what failed, standard error still has the text.
		_ = json.NewEncoder(p.Stdout).Encode(errorView{Type: "error", Error: text, Exit: code}) //nolint:errcheck // see above
	}
	fmt.Fprintf(p.Stderr, "%s: %s\n", p.name, text)
	return code
}
