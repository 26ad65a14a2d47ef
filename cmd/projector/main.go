// Command projector is the stock binary, which needs no Go: the command line on the definition in a projector.yaml, "new",
// which begins one, and the demo.
package main

import (
	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/config"
	"github.com/viewschema/projector/viewschema"
)

// version is set by "make release"; without it, --version prints what the Go toolchain stamped into the binary.
var version string

func main() {
	cli.Main(viewschema.Definition{}, options()...)
}

func options() []cli.Option {
	return []cli.Option{
		cli.WithVersion(version),
		cli.WithConfig(load),
		cli.WithCommand(newCommand()),
		cli.WithCommand(demoCommand()),
	}
}

func load(file string) (cli.Config, error) {
	c, err := config.Load(file)
	return cli.Config(c), err
}
