package eventstore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/projections"
)

// Mapping returns the mapping with all names that it left to defaults.
func (r *Reader) Mapping() Mapping { return r.mapping }

// Access tells how the events of a range of aggregates can be read.
type Access struct {
	ByIndex bool   // an index finds them
	InOrder bool   // and has them in the order in which they are read
	Collate string // the clause that an index of text ids needs to have them in our order; empty: none
}

// bound is an aggregate id that stands out in a plan.
var bound = map[string]projections.ID{
	"uuid": projections.UUID([16]byte{0x7f, 0xed, 0xcb, 0xa9, 0x87, 0x65, 0x43, 0x21, 0x8f, 0xed, 0xcb, 0xa9, 0x87, 0x65, 0x43, 0x21}),
	"text": projections.Text("7fedcba9-bound"),
}

// Access asks the planner for the best that it can do, at whatever cost: that shows what indexes there are on a table, all
// partitions of it or the tables below a view, in the collation that counts. It changes settings until tx ends.
func (r *Reader) Access(ctx context.Context, tx pgx.Tx) (Access, error) {
	a := Access{Collate: r.collate}
	_, err := tx.Exec(ctx, `
		select set_config(name, 'off', true)
		from unnest('{enable_seqscan,enable_sort,enable_bitmapscan,enable_hashjoin,enable_mergejoin}'::text[]) name`)
	if err != nil {
		return a, fmt.Errorf("asking how ranges of %s are read: %w", r.relation, err)
	}
	from := bound[r.idType]
	sql, args := r.eventsSQL(Selection{Range: Range{From: from}})
	var text []byte
	if err := tx.QueryRow(ctx, "explain (format json) "+sql, args...).Scan(&text); err != nil {
		return a, fmt.Errorf("asking how ranges of %s are read: %w", r.relation, err)
	}
	var plans []struct{ Plan node }
	if err := json.Unmarshal(text, &plans); err != nil || len(plans) != 1 {
		return a, fmt.Errorf("asking how ranges of %s are read: EXPLAIN answered %q: %w", r.relation, text, err)
	}
	indexed, filtered, sorted := plans[0].Plan.find(from.String())
	a.ByIndex = indexed && !filtered
	a.InOrder = a.ByIndex && !sorted
	return a, nil
}

// node is a node of a plan.
type node struct {
	Type   string `json:"Node Type"`
	Cond   string `json:"Index Cond"`
	Filter string `json:"Filter"`
	Plans  []node `json:"Plans"`
}

// find says whether the text is in the condition of an index, or in a filter, and whether rows are sorted.
func (n node) find(text string) (indexed, filtered, sorted bool) {
	indexed, filtered = strings.Contains(n.Cond, text), strings.Contains(n.Filter, text)
	sorted = strings.HasSuffix(n.Type, "Sort")
	for _, below := range n.Plans {
		i, f, s := below.find(text)
		indexed, filtered, sorted = indexed || i, filtered || f, sorted || s
	}
	return indexed, filtered, sorted
}
