package eventstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Mapping says where the events are. The zero Mapping reads a table events(position, aggregate_id, sequence_number,
// event_type, data, created_at) that the search path finds; each field that is set replaces one of these names, or, if there
// is a Preset, what it says.
//
// A field that names a column can be an SQL expression instead, in parentheses: over the relation, which has the alias e, and
// what Join adds. An expression costs the use of the column's index, which counts most for the aggregate id, and for the
// position, which has to be a column of Relation for a cut to be settled.
//
// An event must not appear later than at the commit of its row in Relation, or it could be taken for one that was replayed. So
// rows that a Join looks up have to be there before or with the event, as a foreign key sees to, and Where must not begin to
// hold. Names in both should have their schemas: they are looked up on the search path.
type Mapping struct {
	Preset      string // a name of Presets, whose tables are looked for in the database; empty: none
	Relation    string // table, partitioned table or view, as SQL would name it: events, public."Events"
	Join        string // SQL, comes after the relation: left join public.types t on t.id = e.type_id; it must not repeat an event
	Position    string // int or bigint, above 0; orders the whole store
	AggregateID string // uuid or text
	Sequence    string // the event's place in its aggregate, ascending
	Type        string // text; names the event's type
	Data        string // the payload: json, jsonb, text, bytea, or the oid of a large object
	Time        string // timestamp, or text that PostgreSQL reads as one; without a zone: UTC; if empty, created_at if there is one
	Where       string // SQL: only rows for which this holds are events

	AggregateType string // text; optional, like all below
	Metadata      string // like Data
	SchemaVersion string // of the payload; read as text
	Tenant        string // read as text
	Partition     string // uuid or text: what projectors with the order ByPartition group events by; events for which it is NULL are none of theirs

	Positions Positions
}

// Positions says how far the positions of a store can be trusted.
type Positions string

const (
	// PositionsDrawn come from the column's sequence, in the transaction that inserts the event. Where the catalog shows that
	// this is not so, no cut is settled.
	PositionsDrawn Positions = ""
	// PositionsDrawnAhead are drawn in an earlier transaction than the one that inserts the event, as Hibernate's pooled
	// generators and Marten do. The catalog cannot tell; no cut is settled then.
	PositionsDrawnAhead Positions = "drawn ahead"
	// PositionsInCommitOrder become visible in their order, since writers wait for each other until they have committed.
	PositionsInCommitOrder Positions = "commit order"
	// PositionsOfTransactions are the ids of the transactions that have inserted the events, as pg_current_xact_id returns
	// them: all events of a transaction share one, so it is no key for a row of a view table. NULL stands for a transaction
	// before all others.
	PositionsOfTransactions Positions = "transaction id"
)

var allPositions = []Positions{PositionsDrawn, PositionsDrawnAhead, PositionsInCommitOrder, PositionsOfTransactions}

// defaultMapping is what the zero Mapping stands for, but for created_at, which need not be there.
var defaultMapping = Mapping{
	Relation: "events", Position: "position", AggregateID: "aggregate_id", Sequence: "sequence_number", Type: "event_type", Data: "data",
}

// Reader reads one event store. It is safe for concurrent use; all that it does happens on the connection or transaction
// that the caller gives, so that the caller's snapshot is what is read.
type Reader struct {
	mapping  Mapping
	oid      uint32
	relation string // quoted, qualified
	isView   bool
	base     base // where the positions come from
	standby  bool // so was the server when the reader was opened
	// distributed says that Citus distributes the table where they come from.
	distributed bool
	collate     string            // in SQL, after the aggregate id where order matters
	types       map[string]string // of the relation's columns and the mapping's expressions, by PostgreSQL's internal names
	idType      string            // uuid or text

	// What the fields read, in SQL.
	position, id, sequence, typ string
	// drawn is the position as it is stored. For positions above one that is not 0 it says the same, and an index knows it.
	drawn string
	row   row
}

// Relation returns the quoted and qualified name of the event table.
func (r *Reader) Relation() string { return r.relation }

// OnStandby says whether the server was in recovery when the reader was opened. If it is promoted, it goes its own way.
func (r *Reader) OnStandby() bool { return r.standby }

// Relations are the oids of the event table and of the table below a view, where positions come from.
func (r *Reader) Relations() []uint32 { return []uint32{r.oid, r.base.table} }

// Identity names the event table as no other relation can be named: with its oid, which another table of the same name on
// another search path does not have. It tells what a preset has come to.
func (r *Reader) Identity() string {
	identity := fmt.Sprintf("%s (oid %d, positions from oid %d)", r.relation, r.oid, r.base.table)
	if r.mapping.Preset != "" {
		identity += fmt.Sprintf(" as %+v", r.mapping)
	}
	return identity
}

// SharedPositions says whether several aggregates can have events of the same position. All events of one position and one
// aggregate become visible at once.
func (r *Reader) SharedPositions() bool { return r.mapping.Positions == PositionsOfTransactions }

// Partitioned says whether events have a partition.
func (r *Reader) Partitioned() bool { return r.mapping.Partition != "" }

// Indexed says whether an index has the positions in their order.
func (r *Reader) Indexed(ctx context.Context, q pg.Querier) (indexed bool, err error) {
	err = q.QueryRow(ctx, `
		select exists (
			select
			from pg_catalog.pg_index i
			join pg_catalog.pg_class c on c.oid = i.indexrelid
			join pg_catalog.pg_am m on m.oid = c.relam
			join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
			where i.indrelid = $1 and a.attname = $2 and m.amname = 'btree' and i.indisvalid and i.indpred is null)`,
		r.base.table, r.base.position).Scan(&indexed)
	if err != nil {
		return false, fmt.Errorf("looking for an index on the positions of %s: %w", r.relation, err)
	}
	return indexed, nil
}

// from is what the statements select from; sample is a clause of the relation.
func (r *Reader) from(sample string) string {
	return r.relation + " e" + sample + " " + r.mapping.Join
}

// Open checks the mapping against the database that q is connected to. Everything that does not fit is reported at once,
// wrapped in ErrMapping.
func Open(ctx context.Context, q pg.Querier, m Mapping) (*Reader, error) {
	given := m
	if m.Preset != "" {
		var err error
		if m, err = resolve(ctx, q, m); err != nil {
			return nil, err
		}
	}
	if !slices.Contains(allPositions, m.Positions) {
		return nil, fmt.Errorf("%w: Positions is %q; it can be empty or one of %q", ErrMapping, m.Positions, allPositions[1:])
	}
	r := &Reader{mapping: m.over(defaultMapping)}
	if err := r.find(ctx, q); err != nil {
		return nil, err
	}
	if err := r.bind(ctx, q); err != nil {
		return nil, err
	}
	if m.Preset != "" && given.Data == "" {
		if err := r.checkPayload(ctx, q); err != nil {
			return nil, err
		}
	}
	r.base = base{table: r.oid, position: r.mapping.Position}
	var err error
	switch {
	case r.isView:
		r.base, err = r.findBase(ctx, q)
	case isExpression(r.mapping.Position):
		r.base.reason = "the position is an expression, " + r.mapping.Position
	}
	if err == nil {
		r.distributed, err = distributed(ctx, q, r.base.table)
	}
	return r, err
}

// find looks the relation up.
func (r *Reader) find(ctx context.Context, q pg.Querier) error {
	name := r.mapping.Relation
	var kind, role string
	var readable bool
	err := q.QueryRow(ctx, `
		select c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), c.relkind::text, pg_is_in_recovery(),
			pg_catalog.quote_ident(current_user), has_any_column_privilege(c.oid, 'select') -- which who may read the table has, too
		from pg_catalog.pg_class c
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where c.oid = to_regclass($1)`, pg.Once, name).Scan(&r.oid, &r.relation, &kind, &r.standby, &role, &readable)
	if errors.Is(err, pgx.ErrNoRows) {
		database, path, err := whereabouts(ctx, q)
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: database %s has no relation %s that our role can see (search_path is %s); name it, with its schema, as the source's relation, or, if it is in another database, that one: --events-url",
			ErrMapping, database, name, path)
	}
	if err != nil {
		return fmt.Errorf("looking up event table %s: %w", name, err)
	}
	if !readable {
		return fmt.Errorf("%w: our role may not read the events; type: grant select on %s to %s", ErrMapping, r.relation, role)
	}
	r.isView = kind == "v"
	if !slices.Contains([]string{"r", "p", "v"}, kind) {
		return fmt.Errorf("%w: %s is neither a table nor a view", ErrMapping, r.relation)
	}
	return nil
}

// whereabouts names the database and the search path, for messages.
func whereabouts(ctx context.Context, q pg.Querier) (database, path string, err error) {
	if err := q.QueryRow(ctx, "select current_database(), current_setting('search_path')").Scan(&database, &path); err != nil {
		return "", "", fmt.Errorf("asking for the name of the database: %w", err)
	}
	return database, path, nil
}
