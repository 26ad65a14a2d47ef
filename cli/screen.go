package cli

import (
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// screen is a terminal with one line at the bottom that is redrawn in place; logs scroll by above it.
type screen struct {
	w       io.Writer
	columns func() int

	mu   sync.Mutex
	line string
}

// newScreen returns nil if w is no terminal.
func newScreen(w io.Writer) *screen {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &screen{w: f, columns: func() int {
		columns, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 80
		}
		return columns
	}}
}

const eraseLine = "\r\x1b[K"

// draw replaces the line; an empty one removes it. There is nothing to draw on a nil screen.
func (s *screen) draw(line string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if line == s.line {
		return
	}
	s.line = line
	_, _ = io.WriteString(s.w, eraseLine+line) // a progress bar that cannot be drawn is no reason to fail
}

// Write writes logs above the line.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == "" {
		return s.w.Write(b)
	}
	text := eraseLine + strings.TrimSuffix(string(b), "\n") + "\n" + s.line
	if _, err := io.WriteString(s.w, text); err != nil {
		return 0, err
	}
	return len(b), nil
}
