package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Mapping says where the events are. The zero Mapping reads a table events(position, aggregate_id, sequence_number,
// event_type, data, created_at) that the search path finds; each field that is set replaces one of these names, or, if there
// is a Preset, what it says.
//
// A field that names a column can be an SQL expression instead, in parentheses: over the relation, which has the alias e, and
// what Join adds.
type Mapping struct {
	Preset      string // a name of Presets; empty: none
	Relation    string // table, partitioned table or view, as SQL would name it: events, public."Events"
	Join        string // SQL that comes after the relation; it must neither remove nor repeat an event
	Position    string // int or bigint; orders the whole store
	AggregateID string // uuid or text
	Sequence    string // the event's place in its aggregate, ascending
	Type        string // text; names the event's type
	Data        string // json, jsonb, text, or bytea with the payload
	Time        string // timestamp, or text that PostgreSQL reads as one; left out if not named and there is no created_at
	Where       string // SQL: only rows for which this holds are events

	AggregateType string // text; optional, like all below
	Metadata      string // like Data
	SchemaVersion string // of the payload; read as text
	Tenant        string // read as text

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
	// them: all events of a transaction share one.
	PositionsOfTransactions Positions = "transaction id"
)

func (m Mapping) withDefaults() Mapping {
	m.Relation = cmp.Or(m.Relation, "events")
	m.Position = cmp.Or(m.Position, "position")
	m.AggregateID = cmp.Or(m.AggregateID, "aggregate_id")
	m.Sequence = cmp.Or(m.Sequence, "sequence_number")
	m.Type = cmp.Or(m.Type, "event_type")
	m.Data = cmp.Or(m.Data, "data")
	return m
}

// Reader reads one event table. It is safe for concurrent use; all that it does happens on the connection or transaction
// that the caller gives, so that the caller's snapshot is what is read.
type Reader struct {
	mapping   Mapping
	oid       uint32
	relation  string            // quoted, qualified
	columns   string            // the select list, in the order that scan expects
	types     map[string]string // of the relation's columns: internal names
	idType    string            // uuid or text
	isView    bool
	collate   string // in SQL, after the aggregate id where order matters
	versioned bool   // the payload has a version byte before it, as jsonb's binary format has
	base      base   // where the positions come from
}

// Relation returns the quoted and qualified name of the event table.
func (r *Reader) Relation() string { return r.relation }

// Identity names the event table as no other relation can be named: with its oid, which another table of the same name on
// another search path does not have.
func (r *Reader) Identity() string {
	return fmt.Sprintf("%s (oid %d, positions from oid %d)", r.relation, r.oid, r.base.table)
}

// Open checks the mapping against the database that q is connected to. Everything that does not fit is reported at once,
// wrapped in ErrMapping.
func Open(ctx context.Context, q pg.Querier, m Mapping) (*Reader, error) {
	r := &Reader{mapping: m.withDefaults()}
	m = r.mapping
	var kind string
	err := q.QueryRow(ctx, `
		select c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), c.relkind::text
		from pg_catalog.pg_class c
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where c.oid = to_regclass($1)`, m.Relation).Scan(&r.oid, &r.relation, &kind)
	if errors.Is(err, pgx.ErrNoRows) {
		var database, path string
		if err := q.QueryRow(ctx, "select current_database(), current_setting('search_path')").Scan(&database, &path); err != nil {
			return nil, fmt.Errorf("looking up event table %s: %w", m.Relation, err)
		}
		return nil, fmt.Errorf("%w: database %s has no relation %s that our role can see (search_path is %s); name it, with its schema, in the definition's Source",
			ErrMapping, database, m.Relation, path)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up event table %s: %w", m.Relation, err)
	}
	r.isView = kind == "v"
	if !slices.Contains([]string{"r", "p", "v"}, kind) {
		return nil, fmt.Errorf("%w: %s is neither a table nor a view", ErrMapping, r.relation)
	}
	types, err := columnTypes(ctx, q, r.oid)
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s: %w", r.relation, err)
	}
	r.types = types
	if err := r.bind(types); err != nil {
		return nil, err
	}
	if r.idType == "text" {
		if r.collate, err = r.collation(ctx, q); err != nil {
			return nil, err
		}
	}
	r.base = base{table: r.oid, position: r.mapping.Position}
	if r.isView {
		if r.base, err = r.findBase(ctx, q); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// bind checks the columns and makes the select list: every column in a type that scan can read, in binary.
func (r *Reader) bind(types map[string]string) error {
	var problems []string
	list := make([]string, 0, 6)
	column := func(name, role, cast string, allowed ...string) {
		t, ok := types[name]
		switch {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s has no column %q for the %s", r.relation, name, role))
			return
		case t != ambiguous && !slices.Contains(allowed, t):
			problems = append(problems, fmt.Sprintf("%s.%s is %s; the %s must be %s", r.relation, name, t, role, strings.Join(allowed, ", ")))
			return
		}
		sql := "e." + pgx.Identifier{name}.Sanitize()
		switch {
		case t == "timestamp": // without a zone: UTC for all sessions, whatever theirs is
			sql = "(" + sql + " at time zone 'UTC')"
		case cast != "" && cast != t:
			sql += "::" + cast
		}
		list = append(list, sql)
	}
	m := r.mapping
	column(m.Position, "position", "int8", "int8", "int4")
	r.idType = "text"
	if types[m.AggregateID] == "uuid" {
		r.idType = "uuid"
	}
	column(m.AggregateID, "aggregate id", r.idType, "uuid", "text", "varchar")
	if types[m.AggregateID] == ambiguous {
		problems = append(problems, fmt.Sprintf("%s.%s has a nondeterministic collation, in which different ids are equal", r.relation, m.AggregateID))
	}
	column(m.Sequence, "sequence number", "int8", "int8", "int4", "int2")
	column(m.Type, "event type", "text", "text", "varchar", "name")
	r.versioned = types[m.Data] == "jsonb"
	switch types[m.Data] {
	case "bytea", "jsonb", "json": // as they are sent: a cast would be a copy
		column(m.Data, "payload", "", types[m.Data])
	default:
		column(m.Data, "payload", "text", "jsonb", "json", "text", "varchar", "bytea")
	}
	switch _, ok := types["created_at"]; {
	case m.Time != "":
		column(m.Time, "time", "timestamptz", "timestamptz", "timestamp")
	case ok:
		column("created_at", "time", "timestamptz", "timestamptz", "timestamp")
	default:
		list = append(list, "null::timestamptz")
	}
	if problems != nil {
		return fmt.Errorf("%w: %s", ErrMapping, strings.Join(problems, "; "))
	}
	r.columns = strings.Join(list, ", ")
	return nil
}

// collation returns what makes PostgreSQL order the aggregate ids by their bytes, as this program does: nothing if it does
// so anyway. Sorting by a language's rules takes twice as long.
func (r *Reader) collation(ctx context.Context, q pg.Querier) (string, error) {
	var bytewise, converted bool
	err := q.QueryRow(ctx, `
		select coalesce(case c.collprovider when 'c' then c.collcollate when 'd' then d.datcollate end in ('C', 'POSIX'), false),
			current_setting('client_encoding') <> current_setting('server_encoding')
		from pg_catalog.pg_attribute a
		join pg_catalog.pg_collation c on c.oid = a.attcollation
		left join pg_catalog.pg_database d on d.datname = current_database()
			and coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' -- PostgreSQL 14 has no other
		where a.attrelid = $1 and a.attname = $2`, r.oid, r.mapping.AggregateID).Scan(&bytewise, &converted)
	if err != nil {
		return "", fmt.Errorf("looking up the collation of %s.%s: %w", r.relation, r.mapping.AggregateID, err)
	}
	if converted {
		return "", fmt.Errorf("%w: client_encoding is not the database's encoding, so text ids have other bytes here than there; leave it out of the connection string", ErrMapping)
	}
	if bytewise {
		return "", nil
	}
	return ` collate "C"`, nil
}

// ambiguous stands for the type of a text column whose collation is nondeterministic.
const ambiguous = "ambiguous text"

// columnTypes returns the internal type names (int8, timestamptz) of a relation's columns.
func columnTypes(ctx context.Context, q pg.Querier, relation uint32) (map[string]string, error) {
	rows, err := q.Query(ctx, `
		select a.attname::text, case when c.collisdeterministic is false then $2 else t.typname::text end
		from pg_catalog.pg_attribute a
		join pg_catalog.pg_type t on t.oid = a.atttypid
		left join pg_catalog.pg_collation c on c.oid = a.attcollation
		where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped`, relation, ambiguous)
	if err != nil {
		return nil, err
	}
	types := map[string]string{}
	var name, typ string
	_, err = pgx.ForEachRow(rows, []any{&name, &typ}, func() error {
		types[name] = typ
		return nil
	})
	return types, err
}

// column returns a column of the event table, quoted, as the queries of this package name it.
func (r *Reader) column(name string) string {
	return "e." + pgx.Identifier{name}.Sanitize()
}
