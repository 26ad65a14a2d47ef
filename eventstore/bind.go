package eventstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/viewschema/projector/internal/pg"
)

// isExpression tells expressions from names of columns.
func isExpression(field string) bool { return strings.HasPrefix(strings.TrimSpace(field), "(") }

// as says how a value of a type is read: %s is its SQL.
type as struct{ typ, sql string }

// The types that fields may have, by PostgreSQL's internal names, and what makes of each a type that scan can read in binary.
// Payloads are read as they are sent: a cast would be a copy.
var (
	asID       = []as{{"uuid", "%s"}, {"text", "%s"}, {"varchar", "%s::text"}}
	asInt8     = []as{{"int8", "%s"}, {"int4", "%s::int8"}}
	asXid      = append(slices.Clone(asInt8), as{"xid8", "%s::text::int8"})
	asSequence = append(slices.Clone(asInt8), as{"int2", "%s::int8"})
	asText     = []as{{"text", "%s"}, {"varchar", "%s::text"}, {"name", "%s::text"}}
	asPayload  = []as{
		{"jsonb", "%s"},
		{"json", "%s"},
		{"text", "%s"},
		{"varchar", "%s::text"},
		{"bytea", "%s"},
		{"oid", "pg_catalog.lo_get(%s)"}, // a large object
	}
	asTime = []as{
		{"timestamptz", "%s"},
		{"timestamp", "(%s at time zone 'UTC')"}, // whatever the session's zone is
		{"text", textTime},
		{"varchar", textTime},
	}
)

// textTime takes text without a zone for UTC, too.
const textTime = `case when %[1]s ~* ':[0-9.]+ *(z|utc|gmt|[+-][0-9]{2}(:?[0-9]{2})?)$'
		then %[1]s::timestamptz else %[1]s::timestamp at time zone 'UTC' end`

// fields are the mapping's, with what they are for people, in the order of a row's columns.
func (m *Mapping) fields() []struct{ role, sql string } {
	return []struct{ role, sql string }{
		{"position", m.Position},
		{"aggregate id", m.AggregateID},
		{"sequence number", m.Sequence},
		{"event type", m.Type},
		{"payload", m.Data},
		{"time", m.Time},
		{"aggregate type", m.AggregateType},
		{"metadata", m.Metadata},
		{"schema version", m.SchemaVersion},
		{"tenant", m.Tenant},
		{"partition", m.Partition},
	}
}

// row says what the columns of a row of events are. Those of the optional fields are 0 if there is none.
type row struct {
	columns                                        string // the select list
	data                                           string // the payload in it
	versioned, metadataVersioned                   bool   // a version byte comes first, as in jsonb's binary format
	aggregateType, metadata, schemaVersion, tenant int
	partition                                      int
	partitionUUID                                  bool // else it is text
}

// binder checks the fields of a mapping and makes the select list of them.
type binder struct {
	r        *Reader
	list     []string
	problems []string
}

func (b *binder) problem(format string, args ...any) {
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

// bind checks the mapping's SQL and its columns and makes the select list.
func (r *Reader) bind(ctx context.Context, q pg.Querier) error {
	var err error
	if r.types, err = columnTypes(ctx, q, r.oid); err != nil {
		return fmt.Errorf("reading the columns of %s: %w", r.relation, err)
	}
	m := &r.mapping
	if _, ok := r.types["created_at"]; ok && m.Time == "" {
		m.Time = "created_at"
	}
	b := &binder{r: r}
	if err := b.describe(ctx, q); err != nil {
		return err
	}
	r.bindPosition(b)
	b.read("aggregate id", m.AggregateID, asID)
	b.read("sequence number", m.Sequence, asSequence)
	b.read("event type", m.Type, asText)
	r.row.data = b.read("payload", m.Data, asPayload)
	r.row.versioned = r.types[m.Data] == "jsonb"
	if m.Time == "" {
		b.list = append(b.list, "null::timestamptz")
	} else {
		b.read("time", m.Time, asTime)
	}
	r.row.aggregateType = b.optional("aggregate type", m.AggregateType, nil)
	r.row.metadata = b.optional("metadata", m.Metadata, asPayload)
	r.row.metadataVersioned = r.types[m.Metadata] == "jsonb"
	r.row.schemaVersion = b.optional("schema version", m.SchemaVersion, nil)
	r.row.tenant = b.optional("tenant", m.Tenant, nil)
	r.row.partition = b.optional("partition", m.Partition, asID)
	r.row.partitionUUID = r.types[m.Partition] == "uuid"
	if r.types[m.AggregateID] == ambiguous {
		b.problem("%s.%s has a nondeterministic collation, in which different ids are equal", r.relation, m.AggregateID)
	}
	if err := b.asError(); err != nil {
		return err
	}
	r.id, r.sequence, r.typ = r.column(m.AggregateID), r.column(m.Sequence), r.column(m.Type)
	r.idType = "uuid"
	if r.types[m.AggregateID] != "uuid" {
		r.idType = "text"
		if r.collate, err = r.collation(ctx, q); err != nil {
			return err
		}
		b.list[1] += r.collate // as in order by: a sort would keep the id twice
	}
	r.row.columns = strings.Join(b.list, ", ")
	return nil
}

// bindPosition compares the column as it is stored, so that its index is of use.
func (r *Reader) bindPosition(b *binder) {
	m := r.mapping
	r.drawn = r.column(m.Position)
	r.position = r.drawn
	if m.Positions != PositionsOfTransactions {
		b.read("position", m.Position, asInt8)
		return
	}
	sql := b.read("position", m.Position, asXid)
	if r.types[m.Position] == "xid8" {
		r.drawn = sql
	}
	r.position = "greatest(" + r.drawn + ", 1)" // 1 is no transaction's id, and NULL is left out of account
	b.list[0] = r.position + "::int8"
}

// column returns a field as the queries of this package name it: a column quoted, an expression in parentheses.
func (r *Reader) column(field string) string {
	if isExpression(field) {
		return "(" + field + ")"
	}
	return "e." + pgx.Identifier{field}.Sanitize()
}

// read adds a field to the select list and returns what it is there. Without a list of types, any is read as text.
func (b *binder) read(role, field string, types []as) string {
	t, ok := b.r.types[field]
	if !ok {
		if !isExpression(field) { // describe has told
			b.problem("%s has no column %q for the %s", b.r.relation, field, role)
		}
		b.list = append(b.list, "")
		return ""
	}
	sql := b.r.column(field) + "::text"
	if types != nil && t != ambiguous {
		i := slices.IndexFunc(types, func(a as) bool { return a.typ == t })
		if i < 0 {
			names := make([]string, len(types))
			for i, a := range types {
				names[i] = a.typ
			}
			what := b.r.relation + "." + field
			if isExpression(field) {
				what = "the expression " + field
			}
			b.problem("%s is %s; the %s must be %s", what, t, role, strings.Join(names, ", "))
		} else {
			sql = fmt.Sprintf(types[i].sql, b.r.column(field))
		}
	}
	b.list = append(b.list, sql)
	return sql
}

// optional is read for a field that may be empty. It returns the column's place, 0 if there is none.
func (b *binder) optional(role, field string, types []as) int {
	if field == "" {
		return 0
	}
	b.read(role, field, types)
	return len(b.list) - 1
}

// describe asks PostgreSQL for the types of the expressions, and whether it understands Join and Where.
func (b *binder) describe(ctx context.Context, q pg.Querier) error {
	m := b.r.mapping
	if m.Join != "" {
		if _, err := b.try(ctx, q, "Join", "1", "true"); err != nil || b.problems != nil {
			return errors.Join(err, b.asError()) // nothing else can be understood without it
		}
	}
	if m.Where != "" {
		if _, err := b.try(ctx, q, "Where", "1", "("+m.Where+")"); err != nil {
			return err
		}
	}
	byOid := map[uint32][]string{}
	for _, f := range m.fields() {
		if !isExpression(f.sql) {
			continue
		}
		described, err := b.try(ctx, q, fmt.Sprintf("the expression for the %s, %s,", f.role, f.sql), b.r.column(f.sql), "true")
		if err != nil {
			return err
		}
		for _, d := range described {
			byOid[d.DataTypeOID] = append(byOid[d.DataTypeOID], f.sql)
		}
	}
	if len(byOid) == 0 {
		return nil
	}
	oids := slices.Collect(maps.Keys(byOid))
	rows, err := q.Query(ctx, "select oid, typname::text from pg_catalog.pg_type where oid = any ($1)", oids)
	if err != nil {
		return fmt.Errorf("looking up types: %w", err)
	}
	var oid uint32
	var name string
	_, err = pgx.ForEachRow(rows, []any{&oid, &name}, func() error {
		for _, field := range byOid[oid] {
			b.r.types[field] = name
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking up types: %w", err)
	}
	return nil
}

// try has PostgreSQL prepare a select from the mapping's relation, and describe its column. If it refuses, that is a problem
// of what.
func (b *binder) try(ctx context.Context, q pg.Querier, what, column, where string) ([]pgconn.FieldDescription, error) {
	sql := fmt.Sprintf("select %s\nfrom %s\nwhere %s limit 0", column, b.r.from(""), where)
	rows, err := q.Query(ctx, sql, pgx.QueryExecModeDescribeExec)
	var fields []pgconn.FieldDescription
	if err == nil {
		fields = slices.Clone(rows.FieldDescriptions())
		rows.Close()
		err = rows.Err()
	}
	refused, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		return fields, nil
	case !ok || pg.IsConnectionLost(err):
		return nil, fmt.Errorf("checking the mapping of %s: %w", b.r.relation, err)
	case refused.Code != inFailedTransaction: // that is what an earlier problem leaves
		b.problem("%s does not work: %s", what, refused.Message)
	}
	return nil, nil
}

const inFailedTransaction = "25P02"

func (b *binder) asError() error {
	if b.problems == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMapping, strings.Join(b.problems, "; "))
}

// collation returns what makes PostgreSQL order the aggregate ids by their bytes, as this program does: nothing if it does
// so anyway. Sorting by a language's rules takes twice as long.
func (r *Reader) collation(ctx context.Context, q pg.Querier) (string, error) {
	var bytewise, converted bool
	err := q.QueryRow(ctx, `
		select coalesce((
				select case c.collprovider when 'c' then c.collcollate when 'd' then d.datcollate end in ('C', 'POSIX')
				from pg_catalog.pg_attribute a
				join pg_catalog.pg_collation c on c.oid = a.attcollation
				left join pg_catalog.pg_database d on d.datname = current_database()
					and coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' -- PostgreSQL 14 has no other
				where a.attrelid = $1 and a.attname = $2), false),
			current_setting('client_encoding') <> current_setting('server_encoding')`,
		pg.Once, r.oid, r.mapping.AggregateID).Scan(&bytewise, &converted)
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
		where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped`, pg.Once, relation, ambiguous)
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
