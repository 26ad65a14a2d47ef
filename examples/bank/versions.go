package bank

import (
	"maps"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/sql/views"
	"github.com/viewschema/projector/viewschema"
)

// Projectors are all that the bank has.
var Projectors = []*projections.Projector{Accounts, Transactions, Transfers}

// Versions of the bank's view schema.
var Versions = projector.Versions{
	1: {projector.Replay(Accounts, Transactions)},
	// accounts got IBAN, currency, branch, version and opening time; branch_totals came with them; transfers are new
	2: {projector.Replay(Accounts, Transfers)},
	3: {projector.Alter(transactions)}, // and transactions got a constraint
}

// Definition is what the command line needs to know.
var Definition = viewschema.Definition{
	Events:     Events,
	Projectors: Projectors,
	Versions:   Versions,
	Views:      views.FS,
}

// WithoutTransfers is Definition for event stores whose order cannot be relied on.
func WithoutTransfers() viewschema.Definition {
	d := Definition
	d.Projectors = []*projections.Projector{Accounts, Transactions}
	d.Versions = maps.Clone(Versions)
	d.Versions[2] = []projector.Change{projector.Replay(Accounts)}
	return d
}
