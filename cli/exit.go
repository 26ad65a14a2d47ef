package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/eventtable"
	"github.com/viewschema/projector/replay"
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
	exitSpace       = 6
	exitInterrupted = 130
)

// usageError is something wrong with the command line itself.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// ExitCode implements urfave.ExitCoder.
func (e *usageError) ExitCode() int { return exitRefused }

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
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
	if coder, ok := errors.AsType[urfave.ExitCoder](err); ok {
		return coder.ExitCode()
	}
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil:
		return exitInterrupted
	case is(viewschema.ErrLockWait, eventtable.ErrLockWait):
		return exitFailed
	case is(viewschema.ErrOtherMigration, eventtable.ErrBusy):
		return exitOther
	case is(viewschema.ErrState, viewschema.ErrBelowCurrent, viewschema.ErrBookkeeping, viewschema.ErrInit):
		return exitState
	case is(viewschema.ErrSpace):
		return exitSpace
	case is(viewschema.ErrDefinition, viewschema.ErrRefused, replay.ErrNotParked, viewschema.ErrChanged, eventtable.ErrRefused, eventstore.ErrMapping):
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
	if _, quiet := errors.AsType[*quietError](err); quiet || err == nil {
		return code
	}
	text, lines := err.Error(), several(err)
	if _, own := errors.AsType[urfave.ExitCoder](err); code == exitInterrupted && !own {
		text = "interrupted; what was committed stays, and the same command goes on from there"
		if cause, ok := errors.AsType[urfave.ExitCoder](context.Cause(ctx)); ok {
			text = cause.Error()
		}
		lines = text
	}
	p.tell(text, lines, code)
	return code
}

// tell reports an error, to programs in one line.
func (p *program) tell(text, lines string, code int) {
	if p.json {
		// If standard output is what failed, standard error still has the text.
		_ = json.NewEncoder(p.Stdout).Encode(errorView{Type: "error", Error: text, Exit: code})
	}
	fmt.Fprintf(p.Stderr, "%s: %s\n", p.name, lines)
}

// several is an error's text in which the lines after the first are indented; of joined errors, all lines are, after their
// number.
func several(err error) string {
	text := err.Error()
	if all := joined(err); all != nil {
		if head, ok := strings.CutSuffix(text, all.Error()); ok {
			list := members(all)
			head = strings.TrimSuffix(head, ": ")
			if head != "" {
				head += ", "
			}
			text = fmt.Sprintf("%s%d in all:", head, len(list))
			for _, e := range list {
				text += "\n" + strings.ReplaceAll(e.Error(), "\n", "\n  ")
			}
		}
	}
	return strings.ReplaceAll(text, "\n", "\n  ")
}

// joined returns the outermost errors.Join of more than one error in err's tree, or nil.
func joined(err error) error {
	var below []error
	switch e := err.(type) { //nolint:errorlint // the tree itself is looked at
	case interface{ Unwrap() error }:
		below = []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		below = e.Unwrap()
		if len(members(err)) > 1 {
			return err
		}
	}
	for _, e := range below {
		if e == nil {
			continue
		}
		if found := joined(e); found != nil {
			return found
		}
	}
	return nil
}

// members lists what errors.Join has joined, and what that has. For other errors it is the error itself.
func members(err error) []error {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	if again := errors.Join(list.Unwrap()...); again == nil || again.Error() != err.Error() {
		return []error{err}
	}
	var all []error
	for _, e := range list.Unwrap() {
		all = append(all, members(e)...)
	}
	return all
}
