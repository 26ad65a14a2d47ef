package bank

import (
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// BranchTotal is a row of the view table branch_totals. Accounts of all customers add to it, so it is not made of the rows of
// one aggregate, like an Account, but of sums.
type BranchTotal struct {
	bun.BaseModel `bun:"table:branch_totals"`
	Branch        string `bun:"branch,pk"`
	Currency      string `bun:"currency,pk"`
	Accounts      int64  `bun:"accounts" view:"sum"`
	Balance       int64  `bun:"balance"  view:"sum"`
	Turnover      int64  `bun:"turnover" view:"sum"`
}

var branchTotals = projections.NewTotals[BranchTotal]()
