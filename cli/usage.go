package cli

import (
	"fmt"
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/internal/nearest"
)

// usageError says what is wrong with the flags and what to type instead.
func (p *program) usageError(c *urfave.Context, err error, _ bool) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	name = strings.TrimPrefix(name, "-")
	if !unknown {
		return usagef("%s; see: %s --help", err, c.Command.HelpName)
	}
	args := p.from(c, name)
	if slices.Contains(flagNames(c.App.Flags), name) {
		flag := spell(args, c.App.Flags)
		return usagef("%s goes before the command: %s %s %s", flag, p.name, flag, p.path(c))
	}
	typed, _, _ := strings.Cut(args[0], "=")
	known := append(flagNames(c.Command.Flags), flagNames(c.App.Flags)...)
	return usagef("%s has no flag %s%s; see: %s --help", p.path(c), typed, nearest.DidYouMean("--", name, slices.Values(known)), c.Command.HelpName)
}

// from returns the arguments from the command's flag of that name on.
func (p *program) from(c *urfave.Context, name string) []string {
	args := p.Args[1:]
	if c.Command.HelpName != p.name {
		for word := range strings.FieldsSeq(p.path(c)) {
			args = args[slices.Index(args, word)+1:]
		}
	}
	at := slices.IndexFunc(args, func(arg string) bool {
		flag, _, _ := strings.Cut(arg, "=")
		return flag == "-"+name || flag == "--"+name
	})
	if at < 0 {
		return []string{"--" + name}
	}
	return args[at:]
}

// spell writes the flag that args begin with, and its value; of a database's URL, which can have a password, only that there
// is one.
func spell(args []string, known []urfave.Flag) string {
	flag, value, has := strings.Cut("--"+strings.TrimLeft(args[0], "-"), "=")
	separator := "="
	if !has && len(args) > 1 && takesValue(flag[2:], known) {
		separator, value, has = " ", args[1], true
	}
	if !has {
		return flag
	}
	if flag == "--database-url" || flag == "--events-url" {
		value = "…"
	}
	return flag + separator + value
}

func takesValue(name string, flags []urfave.Flag) bool {
	return slices.ContainsFunc(flags, func(f urfave.Flag) bool {
		documented, ok := f.(urfave.DocGenerationFlag)
		return ok && documented.TakesValue() && slices.Contains(f.Names(), name)
	})
}

func (p *program) unknownCommand(c *urfave.Context, name string) error {
	return usagef("%s has no command %s%s; see: %s --help", p.path(c), name, nearest.DidYouMean("", name, slices.Values(commandNames(c))), c.Command.HelpName)
}

// unexpected explains why arguments are refused. urfave takes flags that follow an argument for arguments.
func (p *program) unexpected(c *urfave.Context) error {
	hint := ""
	args := c.Args().Tail()
	if at := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "-") }); at >= 0 {
		hint = fmt.Sprintf("; and flags go first: %s %s", c.Command.HelpName, spell(args[at:], c.Command.Flags))
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
