package projections

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Two aggregates that write one row are a mistake in the declaration: in which order they do so is nobody's to say. In memory
// and in the database it shows as a key that is there twice. PostgreSQL names the key; the aggregates, and what to declare,
// are found here.

// sharedError is ErrShared with the key, as PostgreSQL prints it.
func sharedError(table, key string, aggregates []string, cause error) error {
	err := fmt.Errorf("%s: %w: %s is of aggregate %s and of aggregate %s", table, ErrShared, key, aggregates[0], aggregates[1])
	if cause != nil {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return fmt.Errorf("%w; %s", err, declareShared)
}

// checkShared compares the keys of the rows that were created for the aggregates of a catch-up's batch. It is too early to
// do so when a row is created: the row that has the key may be gone when all events of the batch are applied.
func (t *table[K, R]) checkShared() error {
	if len(t.used) < 2 || t.model.encodeKey == nil {
		return nil
	}
	var key []byte
	seen := make(map[string]*entry[R], len(t.created))
	for _, e := range t.created {
		if e.gone {
			continue
		}
		row := unsafe.Pointer(&e.row)
		key = t.model.encodeKey(key[:0], row)
		if other := seen[string(key)]; other != nil {
			return t.run.fail(sharedError(t.name, printRowKey(t.model, row), []string{t.aggregateOf(other), t.aggregateOf(e)}, nil))
		}
		seen[string(key)] = e
	}
	return nil
}

func (t *table[K, R]) aggregateOf(e *entry[R]) string {
	return printKey(t.model.aggregate.value(unsafe.Pointer(&e.row)).Interface())
}

// printRowKey prints the primary key like the detail of a unique violation.
func printRowKey(m *model, row unsafe.Pointer) string {
	names, values := make([]string, len(m.keys)), make([]string, len(m.keys))
	for i, k := range m.keys {
		names[i], values[i] = k.name, printKey(k.value(row).Interface())
	}
	return fmt.Sprintf("(%s)=(%s)", strings.Join(names, ", "), strings.Join(values, ", "))
}

// takenError is a unique violation in a COPY, with the row that was refused. It stands until resolve says whose the other is.
type takenError struct {
	target  *target
	columns []*column
	rows    [][][]byte // of the COPY
	row     int        // that was refused; -1: not known
	err     error
}

func (e *takenError) Error() string { return e.err.Error() }
func (e *takenError) Unwrap() error { return e.err }

var (
	copyLine = regexp.MustCompile(`(?:^COPY .*, |のCOPY、| 복사, )\D*(\d+)`) // in the language of the server's messages
	twiceKey = regexp.MustCompile(`\((.+?)\)=\((.*)\)`)
)

// refused makes a takenError of a unique violation.
func (t *target) refused(rows *copyBuffer, columns []*column, err error) error {
	told := tableError(t.name, err)
	violation := violationOf(err)
	if violation == nil {
		return told
	}
	taken := &takenError{target: t, columns: columns, rows: rows.all(), row: -1, err: told}
	if line := copyLine.FindStringSubmatch(violation.Where); line != nil {
		if n, err := strconv.Atoi(line[1]); err == nil && n <= len(taken.rows) {
			taken.row = n - 1
		}
	}
	return taken
}

// resolve finds the other row, in the same COPY or in the table, and returns ErrShared if it is another aggregate's.
func (e *takenError) resolve(ctx context.Context, conn *pgx.Conn) error {
	key := twiceKey.FindStringSubmatch(violationOf(e.err).Detail)
	at := slices.Index(e.columns, e.target.model.aggregate)
	if key == nil || e.row < 0 || at < 0 {
		return e.err
	}
	mine := e.aggregate(e.rows[e.row][at])
	var all []string
	if other := e.another(key[1]); other != nil {
		all = append(all, e.aggregate(other[at]))
	} else {
		var err error
		if all, err = aggregatesWith(ctx, conn, e.target.relation, e.target.model.aggregate.sql(), key); err != nil {
			return errors.Join(e.err, err)
		}
	}
	for _, other := range all {
		if other != mine {
			return sharedError(e.target.name, key[0], []string{other, mine}, e.err)
		}
	}
	return e.err
}

// aggregate prints an id as it is encoded.
func (e *takenError) aggregate(value []byte) string {
	if _, oid := e.target.place(e.target.model.aggregate); oid == pgtype.UUIDOID {
		return formatUUID([16]byte(value))
	}
	return string(value)
}

// another finds a row of the COPY that has the same values in the columns of the key, which is a list of names.
func (e *takenError) another(names string) [][]byte {
	var places []int
	for name := range strings.SplitSeq(names, ", ") {
		at := slices.IndexFunc(e.columns, func(c *column) bool { return c.name == name || c.sql() == name })
		if at < 0 {
			return nil // an expression
		}
		places = append(places, at)
	}
	for i, row := range e.rows {
		same := func(at int) bool { return string(row[at]) == string(e.rows[e.row][at]) }
		if i != e.row && !slices.ContainsFunc(places, func(at int) bool { return !same(at) }) {
			return row
		}
	}
	return nil
}

// querier is a connection or a pool.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// aggregatesWith lists the aggregates, two at most, of the rows with a key that PostgreSQL has printed: its columns, as SQL,
// and its values, as text.
func aggregatesWith(ctx context.Context, q querier, relation, aggregate string, key []string) ([]string, error) {
	rows, err := q.Query(ctx, fmt.Sprintf("select distinct %s::text from %s where pg_catalog.concat_ws(', ', %s) = $1 order by 1 limit 2",
		aggregate, relation, key[1]), pgx.QueryExecModeExec, key[2])
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Shared explains a unique violation that an index of one of the set's tables has shown after its rows were stored: it
// returns err, or ErrShared around it if rows of two aggregates have the key. It reads the table with q.
func (s *Set) Shared(ctx context.Context, q querier, err error) error {
	violation := violationOf(err)
	if violation == nil || errors.Is(err, ErrShared) {
		return err
	}
	key := twiceKey.FindStringSubmatch(violation.Detail)
	for _, p := range s.projectors {
		for _, t := range p.Tables {
			var aggregate string
			switch t := t.(type) {
			case accumulating:
			case rowsTable:
				aggregate = t.shape().aggregate.sql()
			case *SQLTable:
				aggregate = pgx.Identifier{t.Aggregate}.Sanitize()
			}
			if key == nil || aggregate == "" || violation.TableName != t.TableName()+s.suffix {
				continue
			}
			relation, title := s.relation(t.TableName())
			all, lookErr := aggregatesWith(ctx, q, relation, aggregate, key)
			if lookErr != nil || len(all) < 2 {
				return errors.Join(err, lookErr)
			}
			return sharedError(title, key[0], all, err)
		}
	}
	return err
}
