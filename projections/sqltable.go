package projections

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
