package projections

import (
	"slices"
	"strings"
)

// EventsMark stands for the events in a SQLTable's Query.
const EventsMark = "%EVENTS%"

// SQLTable is a view table that needs no Go: PostgreSQL computes its rows from the events of some aggregates.
type SQLTable struct {
	Name      string
	Aggregate string // the column with the aggregate's id: every row derives from the events of that aggregate alone
	// Query is a select whose columns are named like those of the table that it fills. %EVENTS% stands for a relation with
	// the events of some aggregates, whole: position bigint, aggregate_id uuid or text, aggregate_type text, sequence_number
	// bigint, event_type text, data jsonb, metadata jsonb, created_at timestamptz, schema_version text, tenant text.
	Query string
	// File names where the query is from, for messages; empty: the table's name.
	File string
}

// TableName returns the name.
func (t *SQLTable) TableName() string { return t.Name }

func (t *SQLTable) isTable() {}

// SQLTarget is a SQLTable of a set, bound to the table that it fills.
type SQLTarget struct {
	*SQLTable
	Projector string
	Relation  string // quoted, with the schema and the suffix of the set
	Title     string // the same, for messages
}

// SQLTables returns the SQL tables of the set's projectors, in their order. Runs leave them out: package replay computes
// them, in the database.
func (s *Set) SQLTables() (list []SQLTarget) {
	for _, p := range s.projectors {
		for _, t := range p.Tables {
			if t, ok := t.(*SQLTable); ok {
				relation, title := s.relation(t.Name)
				list = append(list, SQLTarget{SQLTable: t, Projector: p.Name, Relation: relation, Title: title})
			}
		}
	}
	return list
}

// OnlySQL says whether the set has SQL tables and no others, so that its events need not leave the database.
func (s *Set) OnlySQL() bool {
	tables := 0
	for _, p := range s.projectors {
		tables += len(p.Tables)
	}
	return tables > 0 && tables == len(s.SQLTables())
}

// checkSQLTables finds what is wrong with a projector's SQL tables.
func (c *findings) checkSQLTables(p *Projector) {
	isSQL := func(t Table) bool {
		_, ok := t.(*SQLTable)
		return ok && !isNil(t)
	}
	if !slices.ContainsFunc(p.Tables, isSQL) {
		return
	}
	if len(p.Handlers) > 0 {
		c.add("projector %s has SQL tables and handlers: a projector has the one or the other, make it two projectors", p.Name)
	}
	for i, t := range p.Tables {
		q, ok := t.(*SQLTable)
		switch {
		case isNil(t):
		case !ok:
			c.add("projector %s: table %s has rows that handlers write, and others are SQL tables: make it two projectors", p.Name, t.TableName())
		case q.Name == "":
			c.add("projector %s: SQL table %d has no name", p.Name, i)
		default:
			if q.Aggregate == "" {
				c.add("projector %s: SQL table %s names no column with the aggregate's id", p.Name, q.Name)
			}
			if !strings.Contains(q.Query, EventsMark) {
				c.add("projector %s: the query of SQL table %s has no %s, which stands for the events", p.Name, q.Name, EventsMark)
			}
		}
	}
}
