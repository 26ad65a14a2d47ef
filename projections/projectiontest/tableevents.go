package projectiontest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// TableEvents is an event store in a table of PostgreSQL, which a mapping describes.
type TableEvents struct {
	db     Beginner
	reader *eventstore.Reader
	fields []tableField
	into   string // insert into …
	back   string // returning …
	timed  bool   // back has the time
}

// Beginner is a pool, a connection or a transaction: pgxpool.Pool, pgx.Conn, pgx.Tx.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// tableField is a column that Append writes.
type tableField struct {
	column string
	value  func(e projections.New) any // nil: none, for which the column's default stands
	cast   string                      // of the parameter %s
}

// NewTableEvents finds the table of a mapping, or of a preset. Each field of the mapping has to be a column of one table, the
// position has to have a default that draws it, and aggregate id and sequence number a unique index. An error wraps
// eventstore.ErrMapping if the database does not fit.
func NewTableEvents(ctx context.Context, db Beginner, mapping eventstore.Mapping) (*TableEvents, error) {
	t := &TableEvents{db: db}
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var err error
		if t.reader, err = eventstore.Open(ctx, tx, mapping); err != nil {
			return err
		}
		return t.bind(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("an event store for tests: %w", err)
	}
	return t, nil
}

// In returns the same event store in a transaction of the application.
func (t *TableEvents) In(tx pgx.Tx) *TableEvents {
	in := *t
	in.db = tx
	return &in
}

// tableColumn is a column as the catalog has it.
type tableColumn struct {
	Type     string // as SQL names it
	Drawn    bool   // has a default or is an identity
	Computed bool   // generated always as
}

// bind makes the insert of the mapping's columns.
func (t *TableEvents) bind(ctx context.Context, tx pgx.Tx) error {
	m := t.reader.Mapping()
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s cannot be appended to: %s", eventstore.ErrMapping, t.reader.Relation(), fmt.Sprintf(format, args...))
	}
	if m.Join != "" {
		return refuse("its mapping has a Join; an event store for tests is one table")
	}
	columns, isTable, err := tableColumns(ctx, tx, t.reader.Relation())
	switch {
	case err != nil:
		return err
	case !isTable:
		return refuse("it is a view")
	}
	for _, f := range tableFields(m) {
		c, ok := columns[f.column]
		if f.column == "" || f.column == m.Partition && (c.Computed || strings.HasPrefix(f.column, "(")) { // what the store makes of the event
			continue
		}
		if !ok {
			return refuse("%s is no column of it", f.column)
		}
		switch {
		case c.Type == "oid":
			return refuse("column %s is the oid of a large object", f.column)
		case c.Type == "bytea":
			f.cast = "%s"
		case f.column == m.Time:
			f.cast = "(%s::timestamptz)::" + c.Type
			if c.Type == "timestamp without time zone" {
				f.cast = "(%s::timestamptz at time zone 'UTC')"
			}
			t.timed = strings.HasPrefix(c.Type, "timestamp")
		default:
			f.cast = "%s::text::" + c.Type
		}
		t.fields = append(t.fields, f)
	}
	position := pgx.Identifier{m.Position}.Sanitize()
	switch c, ok := columns[m.Position]; {
	case !ok:
		return refuse("the position %s is no column of it", m.Position)
	case !c.Drawn:
		return refuse("column %s has no default that draws a position", m.Position)
	}
	unique, err := isUnique(ctx, tx, t.reader.Relation(), m.AggregateID, m.Sequence)
	if err == nil && !unique {
		err = refuse("nothing keeps two events of one aggregate from having one sequence number; type: create unique index on %s (%s, %s)",
			t.reader.Relation(), pgx.Identifier{m.AggregateID}.Sanitize(), pgx.Identifier{m.Sequence}.Sanitize())
	}
	names := make([]string, len(t.fields))
	for i, f := range t.fields {
		names[i] = pgx.Identifier{f.column}.Sanitize()
	}
	t.into = "insert into " + t.reader.Relation() + " (" + strings.Join(names, ", ") + ") values "
	t.back = " returning " + position + "::text, "
	if t.timed {
		t.back += pgx.Identifier{m.Time}.Sanitize()
	} else {
		t.back += "null::timestamptz"
	}
	return err
}

func tableFields(m eventstore.Mapping) []tableField {
	text := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return []tableField{
		{column: m.AggregateID, value: func(e projections.New) any { return e.AggregateID.String() }},
		{column: m.Sequence, value: func(e projections.New) any { return strconv.FormatInt(e.Sequence, 10) }},
		{column: m.Type, value: func(e projections.New) any { return e.Type }},
		{column: m.Data, value: func(e projections.New) any { return e.Data }}, // encoded by then
		{column: m.Time, value: func(e projections.New) any {
			if e.Time.IsZero() {
				return nil
			}
			return e.Time
		}},
		{column: m.AggregateType, value: func(e projections.New) any { return text(e.AggregateType) }},
		{column: m.Metadata, value: func(e projections.New) any {
			if e.Metadata == nil {
				return nil
			}
			return e.Metadata
		}},
		{column: m.SchemaVersion, value: func(e projections.New) any { return text(e.SchemaVersion) }},
		{column: m.Tenant, value: func(e projections.New) any { return text(e.Tenant) }},
		{column: m.Partition, value: func(e projections.New) any { return text(e.Partition.String()) }},
	}
}

func tableColumns(ctx context.Context, tx pgx.Tx, relation string) (columns map[string]tableColumn, isTable bool, err error) {
	rows, err := tx.Query(ctx, `
		select a.attname::text, format_type(a.atttypid, a.atttypmod), a.atthasdef or a.attidentity <> '', a.attgenerated <> '', c.relkind in ('r', 'p')
		from pg_catalog.pg_class c
		join pg_catalog.pg_attribute a on a.attrelid = c.oid
		where c.oid = $1::regclass and a.attnum > 0 and not a.attisdropped`, relation)
	if err != nil {
		return nil, false, err
	}
	columns = map[string]tableColumn{}
	var name string
	var c tableColumn
	_, err = pgx.ForEachRow(rows, []any{&name, &c.Type, &c.Drawn, &c.Computed, &isTable}, func() error {
		columns[name] = c
		return nil
	})
	return columns, isTable, err
}

// isUnique says whether the two columns are the key of a unique index.
func isUnique(ctx context.Context, tx pgx.Tx, relation, a, b string) (unique bool, err error) {
	err = tx.QueryRow(ctx, `
		select exists (
			select from pg_catalog.pg_index i
			where i.indrelid = $1::regclass and i.indisunique and i.indisvalid and i.indpred is null and i.indnkeyatts = 2
			  and (select count(*) from pg_catalog.pg_attribute k
			       where k.attrelid = i.indrelid and k.attname in ($2, $3) and k.attnum in (i.indkey[0], i.indkey[1])) = 2)`,
		relation, a, b).Scan(&unique)
	return unique, err
}

// Append implements Events: in a transaction of its own, or in a savepoint of the one that it is given.
func (t *TableEvents) Append(ctx context.Context, events ...projections.New) ([]projections.New, error) {
	appended := slices.Clone(events)
	at := 0
	err := pgx.BeginFunc(ctx, t.db, func(tx pgx.Tx) error {
		for at = range appended {
			if err := t.insert(ctx, tx, &appended[at]); err != nil {
				return err
			}
		}
		return t.visible(ctx, tx, appended)
	})
	if failed, ok := errors.AsType[*pgconn.PgError](err); ok && failed.Code == uniqueViolation {
		return nil, t.conflict(ctx, events[:at], events[at], err)
	}
	if err != nil {
		return nil, err
	}
	return appended, nil
}

// visible finds events that the mapping's Where would hide.
func (t *TableEvents) visible(ctx context.Context, tx pgx.Tx, appended []projections.New) error {
	where := t.reader.Mapping().Where
	if where == "" || len(appended) == 0 {
		return nil
	}
	sel := eventstore.Selection{After: appended[0].Position - 1, UpTo: appended[len(appended)-1].Position}
	for _, e := range appended {
		sel.Aggregates = append(sel.Aggregates, e.AggregateID)
	}
	n, err := t.reader.Count(ctx, tx, sel)
	if err == nil && n < int64(len(appended)) {
		err = fmt.Errorf("append to %s: the mapping's Where, %s, leaves some of these events out", t.reader.Relation(), where)
	}
	return err
}

// uniqueViolation is an SQLSTATE.
const uniqueViolation = "23505"

func (t *TableEvents) insert(ctx context.Context, tx pgx.Tx, e *projections.New) error {
	if err := check(*e); err != nil {
		return err
	}
	if err := checkMapped(t.reader.Mapping(), *e); err != nil {
		return err
	}
	data, err := encode(*e)
	if err != nil {
		return err
	}
	stored := *e
	stored.Data = data
	var values []string
	var args []any
	for _, f := range t.fields {
		v := f.value(stored)
		if v == nil {
			values = append(values, "default")
			continue
		}
		if b, ok := v.([]byte); ok && f.cast != "%s" {
			v = string(b)
		}
		args = append(args, v)
		values = append(values, fmt.Sprintf(f.cast, fmt.Sprintf("$%d", len(args))))
	}
	var position string
	var at *time.Time
	if err := tx.QueryRow(ctx, t.into+"("+strings.Join(values, ", ")+")"+t.back, args...).Scan(&position, &at); err != nil {
		return fmt.Errorf("append %s to %s: %w", e.Type, t.reader.Relation(), err)
	}
	if at != nil {
		e.Time = at.UTC()
	}
	if e.Position, err = strconv.ParseInt(position, 10, 64); err != nil {
		return fmt.Errorf("append %s: the position is %s: %w", e.Type, position, err)
	}
	return nil
}

// checkMapped finds what the mapping has no column for.
func checkMapped(m eventstore.Mapping, e projections.New) error {
	for _, f := range []struct {
		what, column string
		has          bool
	}{
		{"an aggregate type", m.AggregateType, e.AggregateType != ""},
		{"metadata", m.Metadata, e.Metadata != nil},
		{"a schema version", m.SchemaVersion, e.SchemaVersion != ""},
		{"a tenant", m.Tenant, e.Tenant != ""},
		{"a partition", m.Partition, !e.Partition.IsZero() && e.Partition != projections.NoPartition},
	} {
		if f.has && f.column == "" {
			return fmt.Errorf("append %s: the event has %s, and the mapping of the event table names no column for it", e.Type, f.what)
		}
	}
	return nil
}

// conflict tells a sequence number that is taken from other unique violations.
func (t *TableEvents) conflict(ctx context.Context, before []projections.New, e projections.New, err error) error {
	stored, readErr := t.Read(ctx, 0, e.AggregateID)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if slices.ContainsFunc(stored, func(r projections.Raw) bool { return r.Sequence == e.Sequence }) ||
		slices.ContainsFunc(before, func(b projections.New) bool { return b.AggregateID == e.AggregateID && b.Sequence == e.Sequence }) {
		return &ConflictError{e.AggregateID, e.Sequence}
	}
	return err
}

// Read implements Events.
func (t *TableEvents) Read(ctx context.Context, after int64, aggregates ...projections.ID) (events []projections.Raw, err error) {
	err = pgx.BeginFunc(ctx, t.db, func(tx pgx.Tx) error {
		for e, err := range t.reader.Events(ctx, tx, eventstore.Selection{After: after, Aggregates: aggregates}) {
			if err != nil {
				return err
			}
			events = append(events, e.Clone())
		}
		return nil
	})
	slices.SortStableFunc(events, func(a, b projections.Raw) int { return cmp.Compare(a.Position, b.Position) })
	return events, err
}
