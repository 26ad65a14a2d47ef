// Package queries hands the queries of the bank in SQL to tests and benchmarks; the example itself needs no Go.
package queries

import (
	"embed"

	"github.com/viewschema/projector/projections"
)

//go:embed *.sql
var files embed.FS

// Projectors are the bank's, in SQL: accounts and transactions.
func Projectors() []*projections.Projector {
	var list []*projections.Projector
	for _, t := range []projections.SQLTable{{Name: "accounts", Aggregate: "id"}, {Name: "transactions", Aggregate: "account_id"}} {
		t.File = "queries/" + t.Name + ".sql"
		text, err := files.ReadFile(t.Name + ".sql")
		if err != nil {
			panic(err) // it is embedded
		}
		t.Query = string(text)
		list = append(list, &projections.Projector{Name: t.Name, Revision: 1, Tables: []projections.Table{&t}})
	}
	return list
}
