package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	urfave "github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// command is the command with the flags that were typed.
func (s *session) command() string {
	words := []string{s.path(s.flags)}
	for _, name := range s.flags.LocalFlagNames() {
		if !s.typed(name) {
			continue
		}
		switch value := s.flags.Value(name).(type) {
		case bool:
			words = append(words, strings.TrimSuffix(fmt.Sprintf("--%s=%t", name, value), "=true"))
		case urfave.StringSlice:
			for _, v := range value.Value() {
				words = append(words, "--"+name+" "+v)
			}
		default:
			words = append(words, fmt.Sprintf("--%s %v", name, value))
		}
	}
	return strings.Join(words, " ")
}

// confirm asks whether to do what was listed, if there is somebody to ask.
func (s *session) confirm(what string) error {
	if s.flags.Bool("yes") {
		return nil
	}
	in, ok := s.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("nothing was done, since nobody can be asked here; to %s, type: %s %s --yes", what, s.name, s.command())
	}
	fmt.Fprint(s.Stderr, what+"? [y/N] ")
	line, err := bufio.NewReader(in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return usagef("nothing was done")
	}
	return nil
}
