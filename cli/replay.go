package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/viewschema"
)

func replayFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.StringSliceFlag{Name: "only", Usage: "just this projector, by its name or that of a table; may be repeated"},
		&urfave.StringSliceFlag{Name: "aggregate", Usage: "just the rows of the aggregate with this id, and none that several aggregates make; may be repeated"},
		&urfave.BoolFlag{DisableDefaultText: true, Name: "changed", Usage: "make those tables anew, from their SQL files, whose files, queries or projectors have changed"},
		&urfave.BoolFlag{DisableDefaultText: true, Name: "watch", Usage: "--changed, and again with every change, until interrupted"},
		minFreeDiskFlag(),
		yesFlag(),
	}
}

// replay is for developers: it works on the live tables.
func (p *program) replay(c *urfave.Context) error {
	if c.IsSet("aggregate") && (c.Bool("changed") || c.Bool("watch")) {
		return usagef("--aggregate goes without --changed and --watch, which make whole tables anew")
	}
	if c.Bool("watch") {
		return p.watch(c)
	}
	return p.action(replayOnce)(c)
}

func replayOnce(ctx context.Context, s *session) error {
	if err := s.confirmReplay(ctx); err != nil {
		return err
	}
	return step(func(schema *viewschema.Schema, ctx context.Context) (viewschema.Result, error) {
		if !s.flags.Bool("changed") {
			return schema.ReplayPart(ctx, viewschema.Part{Projectors: s.flags.StringSlice("only"), Aggregates: s.flags.StringSlice("aggregate")})
		}
		code, err := codeOfHandlers()
		if err != nil {
			return viewschema.Result{}, err
		}
		return schema.ReplayChanged(ctx, code, s.flags.StringSlice("only")...)
	})(ctx, s)
}

// confirmReplay asks before live tables are emptied, in case this is not the developer's database.
func (s *session) confirmReplay(ctx context.Context) error {
	current, err := s.schema.CurrentVersion(ctx)
	if err != nil || current == 0 {
		return err
	}
	c := s.pool.Config().ConnConfig
	return s.confirm(fmt.Sprintf("empty live view tables of database %s at %s:%d, and fill them anew while everybody is held off", c.Database, c.Host, c.Port))
}

// codeOfHandlers names the code that this program consists of.
func codeOfHandlers() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("looking for the program's file: %w", err)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading the program's file: %w", err)
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", fmt.Errorf("reading the program's file: %w", err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// watchEvery is how often watch looks for changes.
const watchEvery = 500 * time.Millisecond

// watch replays what has changed, again and again. Each round opens its session anew, and so reads the files that there are.
// A failure is told once, and tried again: a file may be half-written, and a server may restart.
func (p *program) watch(c *urfave.Context) error {
	program, err := newProgramFile()
	if err != nil {
		return err
	}
	code, err := codeOfHandlers()
	if err != nil {
		return err
	}
	quiet, told, agreed := false, "", false
	round := p.action(func(ctx context.Context, s *session) error {
		if !agreed {
			if err := s.confirmReplay(ctx); err != nil {
				return err
			}
			agreed = true
		}
		r, err := s.schema.ReplayChanged(ctx, code, s.flags.StringSlice("only")...)
		if err != nil || r.Nothing && quiet {
			return err
		}
		return s.answer(newResultView("replay", r))
	})
	for first := true; ; first = false {
		err := round(c)
		switch {
		case c.Err() != nil:
			return context.Cause(c.Context)
		case err == nil:
			quiet, told = true, ""
		case first && isUsage(err):
			return err
		case err.Error() != told:
			quiet, told = false, err.Error()
			p.tell(err.Error(), several(err), exitCode(c.Context, err))
		}
		select {
		case <-c.Done():
			return context.Cause(c.Context)
		case <-time.After(watchEvery):
		}
		if program.replaced() && p.Restart != nil {
			return p.Restart()
		}
	}
}

func isUsage(err error) bool {
	_, ok := errors.AsType[*usageError](err)
	return ok
}

// programFile is the file that this program was started from.
type programFile struct {
	path  string
	begun fs.FileInfo
	seen  fs.FileInfo
}

func newProgramFile() (*programFile, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("looking for the program's file: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("looking for the program's file: %w", err)
	}
	return &programFile{path: path, begun: info, seen: info}, nil
}

// replaced says whether there is another program now, which was there a round ago: one that is complete.
func (f *programFile) replaced() bool {
	now, err := os.Stat(f.path)
	if err != nil { // the linker removes the old one first
		return false
	}
	settled := sameFile(now, f.seen)
	f.seen = now
	return settled && !sameFile(now, f.begun)
}

func sameFile(a, b fs.FileInfo) bool { return a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() }
