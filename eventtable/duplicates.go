package eventtable

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Duplicates are aggregates of different types that share an identifier.
type Duplicates struct {
	Identifiers int64       `json:"identifiers"`
	Events      int64       `json:"events"`   // theirs
	Clashing    int64       `json:"clashing"` // those of them that have the sequence number of another
	Examples    []Duplicate `json:"examples"`
}

// Duplicate is an identifier under several types.
type Duplicate struct {
	Identifier string   `json:"identifier"`
	Types      []string `json:"types"`
	Events     int64    `json:"events"`
	Clashing   int64    `json:"clashing"`
}

func (d *Duplicates) String() string {
	var examples []string
	for _, e := range d.Examples {
		examples = append(examples, fmt.Sprintf("%s (%s)", e.Identifier, strings.Join(e.Types, ", ")))
	}
	text := fmt.Sprintf("%d identifiers belong to aggregates of several types, with %d events, %d of which share a sequence number: %s",
		d.Identifiers, d.Events, d.Clashing, strings.Join(examples, "; "))
	if int(d.Identifiers) > len(examples) {
		text += " …"
	}
	return text
}

// duplicates looks for identifiers under several types; it returns nil if there are none. It reads the index of the primary
// key once, from end to end.
func duplicates(ctx context.Context, q pg.Querier, t *table, a *axon) (*Duplicates, error) {
	names := strings.NewReplacer("%TABLE%", t.relation(), "%ID%", quote(a.aggregate), "%SEQ%", quote(a.sequence), "%KIND%", quote(a.aggregateType))
	rows, err := q.Query(ctx, names.Replace(`
		select id, array(select distinct %KIND%::text from %TABLE% where %ID% = id order by 1), events, clashing,
			identifiers, all_events, all_clashing
		from (
			select id, sum(n)::int8 as events, coalesce(sum(n) filter (where n > 1), 0)::int8 as clashing,
				count(*) over () as identifiers, (sum(sum(n)) over ())::int8 as all_events,
				(sum(coalesce(sum(n) filter (where n > 1), 0)) over ())::int8 as all_clashing
			from (
				select %ID% as id, count(*) as n, min(%KIND%) as first, max(%KIND%) as last
				from %TABLE%
				group by %ID%, %SEQ%
			) numbers
			group by id
			having min(first) <> max(last)
			order by id
			limit 5
		) several
		order by id`))
	if err != nil {
		return nil, fmt.Errorf("looking for identifiers under several types: %w", err)
	}
	d := &Duplicates{}
	var e Duplicate
	columns := []any{&e.Identifier, &e.Types, &e.Events, &e.Clashing, &d.Identifiers, &d.Events, &d.Clashing}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		d.Examples = append(d.Examples, e)
		e.Types = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for identifiers under several types: %w", err)
	}
	if d.Identifiers == 0 {
		return nil, nil
	}
	return d, nil
}
