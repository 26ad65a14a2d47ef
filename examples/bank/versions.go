package bank

import (
	"github.com/viewschema/projector"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/sql/views"
	"github.com/viewschema/projector/viewschema"
)

// Projectors are all that the bank has.
var Projectors = []*projections.Projector{Accounts, Transactions}

// Versions of the bank's view schema.
var Versions = projector.Versions{
	1: {projector.Replay(Accounts, Transactions)},
	2: {projector.Replay(Accounts)},    // accounts got IBAN, currency, branch, version and opening time; branch_totals came with them
	3: {projector.Alter(transactions)}, // and transactions a constraint
}

// Definition is what the command line needs to know.
var Definition = viewschema.Definition{
	Events:     Events,
	Projectors: Projectors,
	Versions:   Versions,
	Views:      views.FS,
}
