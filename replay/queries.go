package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// Queries has PostgreSQL compute the SQL tables of a set. It is for one goroutine at a time.
type Queries struct {
	source *eventstore.Reader
	tables []*sqlTable
}

// sqlTable is a SQL table and what the database says about its columns.
type sqlTable struct {
	projections.SQLTarget
	source  *eventstore.Reader
	columns []string // that the query yields; nil until it is described
	bound   bool     // they were held against the table
	yielded idColumn // the aggregate's id in the query's rows
	stored  idColumn // and in the table's
}

// idColumn is an expression with an aggregate id, and whether it is uuid or text.
type idColumn struct{ expression, typ string }

// NewQueries returns the queries of the set's SQL tables, which may be none.
func NewQueries(set *projections.Set, source *eventstore.Reader) *Queries {
	q := &Queries{source: source}
	for _, t := range set.SQLTables() {
		q.tables = append(q.tables, &sqlTable{SQLTarget: t, source: source})
	}
	return q
}

// Describe has PostgreSQL analyze the queries, without their tables: it finds what is wrong with them.
func (q *Queries) Describe(ctx context.Context, tx pgx.Tx) error {
	for _, t := range q.tables {
		if err := t.describe(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// Bind holds the queries against their tables. Fill and Replace do so themselves when they are first called.
func (q *Queries) Bind(ctx context.Context, tx pgx.Tx) error {
	var errs []error
	for _, t := range q.tables {
		if !t.bound {
			errs = append(errs, t.bind(ctx, tx))
		}
	}
	return errors.Join(errs...)
}

// Fill adds the rows of the selection's aggregates to the tables, and returns their number. The selection has whole aggregates.
func (q *Queries) Fill(ctx context.Context, tx pgx.Tx, sel eventstore.Selection) (rows int64, err error) {
	if err := q.Bind(ctx, tx); err != nil {
		return 0, err
	}
	for _, t := range q.tables {
		n, err := t.fill(ctx, tx, sel)
		if err != nil {
			return rows, err
		}
		rows += n
	}
	return rows, nil
}

// Replace computes the rows of these aggregates again, and returns how many were deleted and inserted.
func (q *Queries) Replace(ctx context.Context, tx pgx.Tx, aggregates []projections.ID) (rows int64, err error) {
	if len(q.tables) == 0 || len(aggregates) == 0 {
		return 0, nil
	}
	deleted, err := q.Forget(ctx, tx, aggregates)
	if err != nil {
		return deleted, err
	}
	n, err := q.Fill(ctx, tx, eventstore.Selection{Aggregates: aggregates})
	return deleted + n, err
}

// Forget deletes the rows of these aggregates, and returns their number.
func (q *Queries) Forget(ctx context.Context, tx pgx.Tx, aggregates []projections.ID) (rows int64, err error) {
	if err := q.Bind(ctx, tx); err != nil {
		return 0, err
	}
	sel := eventstore.Selection{Aggregates: aggregates}
	for _, t := range q.tables {
		where, args := q.source.Among(sel, t.stored.expression, t.stored.typ, 1)
		tag, err := tx.Exec(ctx, "delete from "+t.Relation+" where "+where, args...)
		if err != nil {
			return rows, fmt.Errorf("emptying %s for %d aggregates: %w", t.Title, len(aggregates), err)
		}
		rows += tag.RowsAffected()
	}
	return rows, nil
}

// eventsName is what a query gets for the mark of the events: a common table expression, which needs no alias, may be named
// any number of times, and is planned as a part of the query.
const eventsName = "projector_events"

// text is the query, without the semicolon that a file may end in.
func (t *sqlTable) text() string { return strings.TrimRight(t.Query, "; \t\r\n") }

// relation wraps the query into a relation over the events that a select yields.
func (t *sqlTable) relation(events string) string {
	return "(\nwith " + eventsName + " as not materialized (\n" + events + "\n)\nselect * from (\n" +
		strings.ReplaceAll(t.text(), projections.EventsMark, eventsName) + "\n) projector_rows\n)"
}

// describe learns the columns of the query.
func (t *sqlTable) describe(ctx context.Context, tx pgx.Tx) error {
	if t.columns != nil {
		return nil
	}
	events, args := t.source.SQL(eventstore.Selection{})
	sql := "select * from " + t.relation(events) + " projector_row"
	d, err := tx.Conn().PgConn().Prepare(ctx, "", sql, nil)
	if err != nil {
		return t.failed(sql, err)
	}
	if len(d.ParamOIDs) != len(args) {
		return fmt.Errorf("%s: the query of table %s has parameters like $1, and nobody to give them", t.file(), t.Title)
	}
	var columns []string
	var errs []error
	for _, f := range d.Fields {
		if slices.Contains(columns, f.Name) {
			errs = append(errs, fmt.Errorf("%s: the query yields column %s twice", t.file(), f.Name))
		}
		if f.Name == t.Aggregate {
			t.yielded = newIDColumn("projector_row."+pgx.Identifier{f.Name}.Sanitize(), f.DataTypeOID)
		}
		columns = append(columns, f.Name)
	}
	if t.yielded == (idColumn{}) {
		errs = append(errs, fmt.Errorf("%s: the query yields no column %s, which is to have the aggregate's id; its columns are %s",
			t.file(), t.Aggregate, strings.Join(columns, ", ")))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t.columns = columns
	return nil
}

func newIDColumn(expression string, oid uint32) idColumn {
	switch oid {
	case pgtype.UUIDOID:
		return idColumn{expression, "uuid"}
	case pgtype.TextOID, pgtype.VarcharOID:
		return idColumn{expression, "text"}
	}
	return idColumn{expression + "::text", "text"}
}

// bind compares the query's columns with those of the table, and has PostgreSQL say whether their types fit.
func (t *sqlTable) bind(ctx context.Context, tx pgx.Tx) error {
	if err := t.describe(ctx, tx); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		select a.attname::text, a.atttypid, a.attnotnull and not a.atthasdef and a.attidentity = '', a.attgenerated <> '' or a.attidentity = 'a'
		from pg_catalog.pg_attribute a
		where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped
		order by a.attnum`, t.Relation)
	if err != nil {
		return fmt.Errorf("reading the columns of %s: %w", t.Title, err)
	}
	var names []string
	var errs []error
	var name string
	var oid uint32
	var needed, computed bool
	_, err = pgx.ForEachRow(rows, []any{&name, &oid, &needed, &computed}, func() error {
		names = append(names, name)
		switch yielded := slices.Contains(t.columns, name); {
		case needed && !yielded:
			errs = append(errs, fmt.Errorf("%s: the query yields no column %s, which table %s has as not null and without a default", t.file(), name, t.Title))
		case computed && yielded:
			errs = append(errs, fmt.Errorf("%s: the query yields column %s, which the database computes in table %s: leave it out", t.file(), name, t.Title))
		}
		if name == t.Aggregate {
			t.stored = newIDColumn(pgx.Identifier{name}.Sanitize(), oid)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the columns of %s: %w", t.Title, err)
	}
	if names == nil {
		return fmt.Errorf("table %s does not exist", t.Title)
	}
	for _, c := range t.columns {
		if !slices.Contains(names, c) {
			errs = append(errs, fmt.Errorf("%s: the query yields column %s, which table %s does not have; its columns are %s",
				t.file(), c, t.Title, strings.Join(names, ", ")))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	sql, _ := t.insert(eventstore.Selection{})
	if _, err := tx.Conn().PgConn().Prepare(ctx, "", sql, nil); err != nil { // types that do not fit
		return t.failed(sql, err)
	}
	t.bound = true
	return nil
}

// strayMark begins the text that no boolean is, by which a statement fails for a row of a foreign aggregate.
const strayMark = "projector: a row of "

// fill adds the rows of the selection's aggregates.
func (t *sqlTable) fill(ctx context.Context, tx pgx.Tx, sel eventstore.Selection) (int64, error) {
	sql, args := t.insert(sel)
	tag, err := tx.Exec(ctx, sql, args...)
	if err != nil {
		return 0, t.failed(sql, err)
	}
	return tag.RowsAffected(), nil
}

// insert is the statement of fill. A row whose aggregate is none of the selection's makes it fail: PostgreSQL has no function
// that raises an error, so it is given a text to take for a boolean. "offset 0" keeps the condition from being moved into the
// query, where it would also see rows that the query leaves out.
func (t *sqlTable) insert(sel eventstore.Selection) (sql string, args []any) {
	events, args := t.source.SQL(sel)
	among, more := t.source.Among(sel, t.yielded.expression, t.yielded.typ, len(args)+1)
	quoted := make([]string, len(t.columns))
	for i, c := range t.columns {
		quoted[i] = pgx.Identifier{c}.Sanitize()
	}
	list := strings.Join(quoted, ", ")
	return fmt.Sprintf("insert into %s (%s)\nselect %s\nfrom (select * from %s projector_row offset 0) projector_row\nwhere case when %s then true else ('%s' || coalesce(%s::text, ''))::boolean end",
		t.Relation, list, list, t.relation(events), among, strayMark, t.yielded.expression), append(args, more...)
}

func (t *sqlTable) file() string {
	if t.File != "" {
		return t.File
	}
	return t.Name
}

// failed says what is wrong with the query, in a statement that it is a part of.
func (t *sqlTable) failed(sql string, err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("table %s: %w", t.Title, err)
	}
	if _, id, stray := strings.Cut(e.Message, strayMark); stray {
		return fmt.Errorf("table %s: %w", t.Title, t.stray(strings.TrimSuffix(id, `"`)))
	}
	for _, more := range []string{e.Detail, e.Where} {
		if more != "" {
			err = fmt.Errorf("%w: %s", err, more)
		}
	}
	return &QueryError{pg.FileError(t.file(), t.Query, t.position(sql, int(e.Position)), fmt.Errorf("table %s: %w", t.Title, err))}
}

// stray is the error of a row whose aggregate is none of those that the query was given.
func (t *sqlTable) stray(id string) error {
	if id == "" {
		return fmt.Errorf("%w: %s yields a row in which %s is null: it has to be the id of the aggregate that the row derives from",
			ErrAggregates, t.file(), t.Aggregate)
	}
	return fmt.Errorf("%w: %s yields a row in which %s is %s, an aggregate whose events it was not given: each row has to carry the id of the aggregate that it derives from",
		ErrAggregates, t.file(), t.Aggregate, id)
}

// position finds a place of a statement in the query, in characters from 1; 0 if it is elsewhere.
func (t *sqlTable) position(sql string, position int) int {
	parts := strings.Split(t.text(), projections.EventsMark)
	begin := strings.Index(sql, strings.Join(parts, eventsName))
	if position == 0 || begin < 0 {
		return 0
	}
	left := position - 1 - utf8.RuneCountInString(sql[:begin]) // characters of the rendered query before the place
	at := 0                                                    // and of the query itself
	for i, part := range parts {
		n := utf8.RuneCountInString(part)
		switch {
		case left < 0:
			return 0
		case left <= n:
			return at + left + 1
		case i == len(parts)-1:
			return 0
		}
		left, at = left-n, at+n
		if left < len(eventsName) {
			return at + 1
		}
		left, at = left-len(eventsName), at+len(projections.EventsMark)
	}
	return 0
}
