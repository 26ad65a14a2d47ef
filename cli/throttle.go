package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/viewschema"
)

// throttleFlags are the limits that a migration keeps to.
func throttleFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.Int64Flag{Name: "max-events-per-second", DefaultText: "no limit", Usage: "of all processes together, at least 100; 0 for no limit"},
		&urfave.DurationFlag{Name: "max-lag", DefaultText: "no limit", Usage: "hold back while a standby is further behind; 0 for no limit"},
		&urfave.IntFlag{Name: "max-sessions", DefaultText: "no limit", Usage: "hold back while more sessions of others are active; 0 for no limit"},
		&urfave.StringFlag{Name: "max-wal-rate", DefaultText: "no limit", Usage: "hold back while the server writes more WAL per second, such as 20MB; 0 for no limit"},
		minFreeDiskFlag(),
	}
}

func minFreeDiskFlag() urfave.Flag {
	return &urfave.StringFlag{
		Name: "min-free-disk", DefaultText: "no limit",
		Usage: "stop, with exit code 6, when less is free on a volume that the server writes to, such as 20GB; 0 for no limit; see --free-disk-query",
	}
}

// throttleCommand shows and changes the limits of the migration under way.
func (p *program) throttleCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "throttle",
		Usage: "slow the migration under way down, pause it, or let it go on; without a flag, show what it keeps to",
		Flags: append(throttleFlags(),
			&urfave.BoolFlag{DisableDefaultText: true, Name: "pause", Usage: "begin no more batches, until --resume"},
			&urfave.BoolFlag{DisableDefaultText: true, Name: "resume", Usage: "end a pause; limits stay"},
			&urfave.BoolFlag{DisableDefaultText: true, Name: "off", Usage: "end a pause, and lift all limits that are not given with it"},
		),
		Action: p.action(throttle),
	}
}

func throttle(ctx context.Context, s *session) error {
	c := s.flags
	if s.typed("pause") && (s.typed("resume") || s.typed("off")) {
		return usagef("--pause, and --resume or --off: one of them")
	}
	change, err := throttleChange(c, s.typed) // a variable says how a migration begins
	if err != nil {
		return err
	}
	var now *viewschema.Throttle
	if change == nil {
		now, err = s.schema.Throttle(ctx)
	} else {
		now, err = s.schema.ChangeThrottle(ctx, change)
	}
	if err != nil {
		return err
	}
	return s.answer(throttleView{"throttle", now})
}

// throttleChange is what those flags of a command that count as set say about limits; nil if they say nothing.
func throttleChange(c *urfave.Context, set func(flag string) bool) (func(*viewschema.Throttle), error) {
	var wal, free int64
	var err error
	if set("max-wal-rate") {
		if wal, err = parseSize(c.String("max-wal-rate")); err != nil {
			return nil, usagef("--max-wal-rate %s: write bytes per second, such as 512kB, 20MB or 1GB", c.String("max-wal-rate"))
		}
	}
	if set("min-free-disk") {
		if free, err = parseSize(c.String("min-free-disk")); err != nil {
			return nil, usagef("--min-free-disk %s: write bytes, such as 500MB, 20GB or 1TB", c.String("min-free-disk"))
		}
	}
	events, lag, sessions := c.Int64("max-events-per-second"), c.Duration("max-lag"), c.Int("max-sessions")
	switch {
	case events != 0 && events < viewschema.LeastEventsPerSecond:
		return nil, usagef("--max-events-per-second %d: at least %d, or throttle --pause", events, viewschema.LeastEventsPerSecond)
	case lag < 0:
		return nil, usagef("--max-lag %s: not below 0", lag)
	case sessions < 0:
		return nil, usagef("--max-sessions %d: not below 0", sessions)
	}
	said := false
	for _, name := range []string{"max-events-per-second", "max-lag", "max-sessions", "max-wal-rate", "min-free-disk", "pause", "resume", "off"} {
		said = said || set(name)
	}
	if !said {
		return nil, nil
	}
	return func(t *viewschema.Throttle) {
		on := func(flag string) bool { return set(flag) && c.Bool(flag) }
		if on("off") {
			*t = viewschema.Throttle{}
		}
		if on("pause") || on("resume") {
			t.Paused = on("pause")
		}
		if set("max-events-per-second") {
			t.MaxEventsPerSecond = events
		}
		if set("max-lag") {
			t.MaxLag = lag
		}
		if set("max-sessions") {
			t.MaxSessions = sessions
		}
		if set("max-wal-rate") {
			t.MaxWALRate = wal
		}
		if set("min-free-disk") {
			t.MinFreeDisk = free
		}
	}, nil
}

var sizePattern = regexp.MustCompile(`^(\d{1,18}) ?(B|kB|KB|MB|GB|TB)?$`)

// parseSize reads a number of bytes as PostgreSQL does in its settings: units are powers of 1024.
func parseSize(text string) (int64, error) {
	m := sizePattern.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%q is no size", text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]int{"B": 0, "kB": 10, "KB": 10, "MB": 20, "GB": 30, "TB": 40}[cmp.Or(m[2], "B")]
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is too much", text)
	}
	return n << shift, err
}

type throttleView struct {
	Type     string               `json:"type"`
	Throttle *viewschema.Throttle `json:"throttle"` // null: no limits
}

func (v throttleView) text(w io.Writer, program string) {
	limits := limits(v.Throttle)
	if len(limits) == 0 {
		fmt.Fprintln(w, "no limits")
	}
	for _, l := range limits {
		fmt.Fprintln(w, l)
	}
	if t := v.Throttle; t != nil {
		fmt.Fprintf(w, "changed by %s, %s\n", t.ChangedBy, t.ChangedAt.Format(time.DateTime))
		if t.Paused {
			next(w, program, "throttle --resume")
		}
	}
}

// limits says in words what is kept to.
func limits(t *viewschema.Throttle) (list []string) {
	switch {
	case t == nil:
		return nil
	case t.Paused:
		list = append(list, "paused")
	}
	if t.MaxEventsPerSecond > 0 {
		list = append(list, "at most "+events(t.MaxEventsPerSecond)+" per second")
	}
	if t.MaxLag > 0 {
		list = append(list, fmt.Sprintf("while no standby is more than %s behind", t.MaxLag))
	}
	if t.MaxSessions > 0 {
		list = append(list, fmt.Sprintf("while no more than %s active", count(int64(t.MaxSessions), "other session is", "other sessions are")))
	}
	if t.MaxWALRate > 0 {
		list = append(list, fmt.Sprintf("while the server writes at most %s of WAL per second", size(t.MaxWALRate)))
	}
	if t.MinFreeDisk > 0 {
		list = append(list, fmt.Sprintf("while at least %s are free on each volume of the server", size(t.MinFreeDisk)))
	}
	return list
}
