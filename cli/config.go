package cli

import (
	"errors"
	"io/fs"
	"regexp"

	"github.com/jackc/pgx/v5/pgxpool"
	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/viewschema"
)

// Config is what a command line reads from a file.
type Config struct {
	Definition     viewschema.Definition
	Database       string // URL, for when there is neither --database-url nor DATABASE_URL; ${NAME} is an environment variable
	EventsDatabase string // URL of the events' database, if it is another one; the same
}

// WithConfig makes the commands that need a definition load it from a file, and not use the one that Run has got. The flag
// --config names the file; without it, it is projector.yaml in the working directory. If there is no such file, load's error
// is fs.ErrNotExist.
func WithConfig(load func(file string) (Config, error)) Option {
	return func(p *program) { p.load = load }
}

func (p *program) configFlag() []urfave.Flag {
	if p.load == nil {
		return nil
	}
	const usage = "the file that says where the events are, and what each version changes"
	return []urfave.Flag{&urfave.StringFlag{Name: "config", Value: "projector.yaml", Usage: usage}}
}

// config loads the definition, if it is in a file, and gives the flags of the databases that nobody has named the file's URLs.
func (p *program) config(c *urfave.Context) error {
	if p.load == nil {
		return nil
	}
	file := c.String("config")
	config, err := p.load(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.IsSet("config"):
		return usagef("--config %s: there is no such file", file)
	case errors.Is(err, fs.ErrNotExist):
		return usagef("there is no %s here; name another file with --config, or begin one: %s new", file, p.name)
	case err != nil:
		return err
	}
	p.definition = config.Definition
	if p.getenv("DATABASE_URL") == "" {
		err = p.setURL(c, "database-url", config.Database, "database in "+file)
	}
	if err == nil {
		err = p.setURL(c, "events-url", config.EventsDatabase, "events_database in "+file)
	}
	return err
}

var reference = regexp.MustCompile(`\$\{(\w+)\}`)

// setURL sets the flag, if it is not set, to a URL that is from a file, with the environment's variables put in.
func (p *program) setURL(c *urfave.Context, flag, url, from string) (err error) {
	if url == "" || c.String(flag) != "" {
		return nil
	}
	url = reference.ReplaceAllStringFunc(url, func(r string) string {
		name := reference.FindStringSubmatch(r)[1]
		value := p.getenv(name)
		if value == "" {
			err = usagef("%s: %s is not set in the environment; set it, or use --%s", from, name, flag)
		}
		return value
	})
	if err != nil {
		return err
	}
	if _, err := pgxpool.ParseConfig(url); err != nil {
		return badURL(from, err)
	}
	return c.Set(flag, url)
}
