package cli

import (
	"fmt"
	"strings"

	urfave "github.com/urfave/cli/v2"
)

// variable returns the environment variable of a flag.
func variable(flag string) string {
	return "PROJECTOR_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment sets the flags of a command that were not typed. urfave could do so, but only from the process's own
// environment.
func (p *program) fromEnvironment(c *urfave.Context) error {
	for _, f := range c.Command.Flags {
		name := f.Names()[0]
		value := p.getenv(variable(name))
		if value == "" || name == "help" || name == "version" || c.IsSet(name) {
			continue
		}
		if err := c.Set(name, value); err != nil {
			return usagef("%s=%s is no value for --%s: %v", variable(name), value, name, err)
		}
		p.unsaid = append(p.unsaid, name)
	}
	return nil
}

// showVariables adds the variables to the flags' help.
func showVariables(flags []urfave.Flag) {
	for _, f := range flags {
		hint := fmt.Sprintf(" [$%s]", variable(f.Names()[0]))
		switch f := f.(type) {
		case *urfave.BoolFlag:
			f.Usage += hint
		case *urfave.IntFlag:
			f.Usage += hint
		case *urfave.Int64Flag:
			f.Usage += hint
		case *urfave.Uint64Flag:
			f.Usage += hint
		case *urfave.StringFlag:
			f.Usage += hint
		case *urfave.StringSliceFlag:
			f.Usage += hint
		case *urfave.DurationFlag:
			f.Usage += hint
		}
	}
}
