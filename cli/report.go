package cli

import (
	"encoding/json"
	"time"

	"github.com/rs/zerolog"

	"github.com/viewschema/projector/replay"
)

// How often progress is shown. A terminal shows every value that comes. The log has a line only for what takes that long, and
// leaves it to the answer that all is done, as does the terminal.
const (
	logEvery  = 10 * time.Second
	jsonEvery = time.Second
)

// logger writes lines for people, or lines of JSON if the answer is JSON, to standard error.
func (s *session) logger() zerolog.Logger {
	w := s.Stderr
	if s.screen != nil {
		w = s.screen
	}
	if !s.json {
		color := s.screen != nil && s.getenv("NO_COLOR") == ""
		w = zerolog.ConsoleWriter{Out: w, NoColor: !color, TimeFormat: time.DateTime}
	}
	return zerolog.New(w).With().Timestamp().Logger()
}

// progress returns what shows progress: lines of JSON on standard output, a bar, or lines in the log.
func (s *session) progress() func(replay.Progress) {
	switch {
	case s.flags.Bool("no-progress"):
		return nil
	case s.json:
		out := json.NewEncoder(s.Stdout)
		return show(time.Now, 0, jsonEvery, func(r reading) {
			_ = out.Encode(newProgressView(r)) // if this fails, so will the result, on the same stream
		})
	case s.screen != nil:
		return show(time.Now, 0, 0, unlessDone(func(r reading) { s.screen.draw(r.bar(s.screen.columns())) }))
	}
	return show(time.Now, logEvery, logEvery, unlessDone(func(r reading) { s.log.Info().Msg(r.line()) }))
}

// show hands on the value that comes so long after the first, and from then on one per interval.
func show(now func() time.Time, after, every time.Duration, out func(reading)) func(replay.Progress) {
	var p pace
	var due time.Time
	return func(progress replay.Progress) {
		at := now()
		r := p.read(progress, at)
		if due.IsZero() {
			due = at.Add(after)
		}
		if at.Before(due) || progress.Phase == replay.PhaseReplay && r.Total == 0 { // a catch-up that finds nothing
			return
		}
		due = at.Add(every)
		out(r)
	}
}

func unlessDone(out func(reading)) func(reading) {
	return func(r reading) {
		if r.Phase != replay.PhaseDone {
			out(r)
		}
	}
}
