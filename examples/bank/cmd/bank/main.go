// Command bank is the bank's own projector: the ten lines with which an application builds a binary with its projectors.
package main

import (
	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/examples/bank"
)

func main() {
	cli.Main(bank.Definition)
}
