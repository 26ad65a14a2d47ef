package cli

import (
	"fmt"
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
)

// usageError says what is wrong with the flags and what to type instead.
func (p *program) usageError(c *urfave.Context, err error, _ bool) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	name = strings.TrimPrefix(name, "-")
	if !unknown {
		return usagef("%s; see: %s --help", err, c.Command.HelpName)
	}
	if slices.Contains(flagNames(c.App.Flags), name) {
		return usagef("--%s goes before the command: %s --%s %s", name, p.name, name, p.path(c))
	}
	known := append(flagNames(c.Command.Flags), flagNames(c.App.Flags)...)
	return usagef("%s has no flag --%s%s; see: %s --help", p.path(c), name, didYouMean("--", name, known), c.Command.HelpName)
}

func (p *program) unknownCommand(c *urfave.Context, name string) error {
	return usagef("%s has no command %s%s; see: %s --help", p.path(c), name, didYouMean("", name, commandNames(c)), c.Command.HelpName)
}

// unexpected explains why arguments are refused. urfave takes flags that follow an argument for arguments.
func (p *program) unexpected(c *urfave.Context) error {
	hint := ""
	for _, arg := range c.Args().Tail() {
		if strings.HasPrefix(arg, "-") {
			hint = fmt.Sprintf("; and flags go first: %s %s", c.Command.HelpName, arg)
			break
		}
	}
	return usagef("%s takes no argument, but got %q%s", p.path(c), c.Args().First(), hint)
}

// path names the command as it was typed after the program's name, or else the program.
func (p *program) path(c *urfave.Context) string {
	return strings.TrimPrefix(c.Command.HelpName, p.name+" ")
}

func commandNames(c *urfave.Context) []string {
	var names []string
	for _, sub := range c.Command.Subcommands {
		if !sub.Hidden && sub.Name != "help" {
			names = append(names, sub.Name)
		}
	}
	return names
}

func flagNames(flags []urfave.Flag) []string {
	var names []string
	for _, f := range flags {
		names = append(names, f.Names()...)
	}
	return names
}

// didYouMean suggests the known name that is nearest to a wrong one, if any is near.
func didYouMean(prefix, wrong string, known []string) string {
	best, nearness := "", 0.8
	for _, k := range known {
		if n := smetrics.JaroWinkler(strings.ToLower(wrong), k, 0.7, 4); n > nearness {
			best, nearness = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s%s?", prefix, best)
}
