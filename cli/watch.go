package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/viewschema"
)

func statusFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.BoolFlag{DisableDefaultText: true, Name: "watch", Usage: "show it again when it changes, until the migration under way, or else the next one, is over"},
		&urfave.DurationFlag{Name: "interval", Value: time.Second, Usage: "with --watch: how often to look"},
	}
}

func status(ctx context.Context, s *session) error {
	if s.flags.Bool("watch") {
		return watchStatus(ctx, s)
	}
	st, err := s.schema.Status(ctx)
	if err != nil {
		return err
	}
	return s.answer(newStatusView(st))
}

// watchStatus answers each time the status has changed, and on a terminal redraws it. It ends when a migration that it has seen is
// under way no more. A server that restarts meanwhile is waited for.
func watchStatus(ctx context.Context, s *session) error {
	show := s.answer
	if out := newDisplay(s.Stdout); out != nil && !s.json {
		show = func(a answer) error {
			var b bytes.Buffer
			a.text(&b, s.name)
			return out.draw(b.String())
		}
	}
	tick := time.NewTicker(s.flags.Duration("interval"))
	defer tick.Stop()
	var seen *viewschema.MigrationStatus
	last, lost := "", false
	for {
		st, err := s.schema.Status(ctx)
		switch {
		case ctx.Err() != nil:
			return &quietError{exitInterrupted} // there is nothing to go on with
		case err != nil && (last == "" || !pg.IsConnectionLost(err)):
			return err
		case err != nil && !lost:
			s.log.Warn().Err(err).Msg("the connection is lost; trying again")
		}
		if lost = err != nil; !lost {
			text, err := unhurried(st)
			if err != nil {
				return err
			}
			if text != last {
				if err := show(newStatusView(st)); err != nil {
					return err
				}
			}
			last = text
			if seen != nil && (st.Migration == nil || !st.Migration.Created.Equal(seen.Created)) {
				return nil
			}
			seen = st.Migration
		}
		select {
		case <-ctx.Done():
			return &quietError{exitInterrupted}
		case <-tick.C:
		}
	}
}

// unhurried is what of a status does not change by itself, as time goes by.
func unhurried(st viewschema.Status) (string, error) {
	if st.Migration != nil {
		m := *st.Migration
		m.PerSecond, m.Left = 0, nil
		st.Migration = &m
	}
	st.AtWork = slices.Clone(st.AtWork)
	for i := range st.AtWork {
		st.AtWork[i].Seen = time.Time{}
	}
	b, err := json.Marshal(st)
	return string(b), err
}

// display is a terminal on which a text is drawn over the one before it.
type display struct {
	w     io.Writer
	size  func() (columns, rows int)
	lines int // that were drawn
}

// newDisplay returns nil if w is no terminal.
func newDisplay(w io.Writer) *display {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &display{w: f, size: func() (int, int) {
		columns, rows, err := term.GetSize(int(f.Fd()))
		if err != nil || columns < 1 || rows < 1 { // a terminal that nobody has given a size
			return 80, 24
		}
		return columns, rows
	}}
}

// draw replaces the text. What does not fit is left out: a line that wraps, or scrolls away, could not be drawn over.
func (d *display) draw(text string) error {
	columns, rows := d.size()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	lines = lines[:min(len(lines), max(1, rows-1))]
	var b strings.Builder
	if d.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", d.lines)
	}
	b.WriteString("\r\x1b[J")
	for _, line := range lines {
		if runes := []rune(line); len(runes) > columns {
			line = string(runes[:max(0, columns)])
		}
		b.WriteString(line + "\n")
	}
	d.lines = len(lines)
	if _, err := io.WriteString(d.w, b.String()); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}
