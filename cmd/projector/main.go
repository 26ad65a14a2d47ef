// Command projector is the stock binary: the command line on the bank's definition, and the demo.
package main

import (
	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/examples/bank"
)

func main() {
	cli.Main(bank.Definition, cli.WithCommand(demoCommand()))
}
