package eventstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// Range is a run of aggregates: From ≤ id < To, in the order of projections.ID.Compare. A zero bound is open.
type Range struct{ From, To projections.ID }

// Selection says which events to read. The zero Selection is all of them.
type Selection struct {
	Range      Range
	Aggregates []projections.ID // if not nil: just these
	Without    []projections.ID // not these
	After      int64            // positions above
	UpTo       int64            // if not 0: positions up to it
	Except     string           // SQL, trusted: a relation of what is left out: position, and aggregate_id (text) if SharedPositions
	Known      Known            // left out, too: for an Except that is in another database
	Types      []string         // if not nil: just these types, except above AllAbove
	AllAbove   int64            // with Types: above this position every type is read
	Bounds     []projections.ID // ascending, inside of Range: they cut it into parts, the first of which is number 0
	ByPosition bool             // in the order of positions, not by aggregate
	Limit      int64            // with ByPosition, if not 0: the first of the selection, and all that share the last one's position
	Sorting    Sorting          // of a cursor: Scan and Chunks
}

// Known are events as a ledger knows them.
type Known struct {
	Positions  []int64
	Aggregates []string // of each, if SharedPositions
}

// Event is a stored event and the number of the part of the selection that it belongs to.
type Event struct {
	projections.Raw
	Part int
}

// params collects the parameters of a statement, after those that it has already.
type params struct {
	before int
	values []any
}

// add returns the parameter as SQL names it.
func (p *params) add(value any) string {
	p.values = append(p.values, value)
	return fmt.Sprintf("$%d", p.before+len(p.values))
}

// where returns the conditions of the selection and their parameters.
func (r *Reader) where(sel Selection) (string, []any) {
	var conditions []string
	var p params
	if r.mapping.Where != "" {
		conditions = append(conditions, "("+r.mapping.Where+")")
	}
	conditions = append(conditions, sel.among(&p, r.id, r.idType, r.collate)...)
	add := func(condition string) { conditions = append(conditions, condition) }
	if sel.After > 0 {
		add(r.drawn + " > " + p.add(sel.After) + "::int8")
	}
	if sel.UpTo > 0 {
		add(r.position + " <= " + p.add(sel.UpTo) + "::int8")
	}
	same := "l.position = " + r.position
	if r.SharedPositions() {
		same += " and l.aggregate_id = " + r.id + "::text"
	}
	if sel.Except != "" {
		add("not exists (select from " + sel.Except + " l where " + same + ")")
	}
	switch known := sel.Known; {
	case len(known.Positions) == 0:
	case r.SharedPositions():
		add("not exists (select from rows from (pg_catalog.unnest(" + p.add(known.Positions) + "::int8[]), pg_catalog.unnest(" +
			p.add(known.Aggregates) + "::text[])) l (position, aggregate_id) where " + same + ")")
	default:
		add("not exists (select from pg_catalog.unnest(" + p.add(known.Positions) + "::int8[]) l (position) where " + same + ")")
	}
	if sel.Types != nil {
		add("(" + r.typ + " = any (" + p.add(sel.Types) + "::text[]) or " + r.position + " > " + p.add(sel.AllAbove) + "::int8)")
	}
	if conditions == nil {
		return "true", nil
	}
	return strings.Join(conditions, "\n  and "), p.values
}

// among returns the conditions that an SQL expression of a type is in the selection's range and among its aggregates. collate
// comes after the expression where order matters.
func (sel Selection) among(p *params, expression, typ, collate string) (conditions []string) {
	if !sel.Range.From.IsZero() {
		conditions = append(conditions, expression+collate+" >= "+p.add(sel.Range.From.String())+"::text::"+typ)
	}
	if !sel.Range.To.IsZero() {
		conditions = append(conditions, expression+collate+" < "+p.add(sel.Range.To.String())+"::text::"+typ)
	}
	list := func(ids []projections.ID) string {
		texts := make([]string, len(ids))
		for i, id := range ids {
			texts[i] = id.String()
		}
		return p.add(texts) + "::text[]::" + typ + "[]"
	}
	if sel.Aggregates != nil {
		conditions = append(conditions, expression+" = any ("+list(sel.Aggregates)+")")
	}
	if len(sel.Without) > 0 {
		conditions = append(conditions, expression+" <> all ("+list(sel.Without)+")")
	}
	return conditions
}

// eventsSQL returns the statement that reads the selection, and its parameters.
func (r *Reader) eventsSQL(sel Selection) (string, []any) {
	where, args := r.where(sel)
	order := r.id + r.collate + ", " + r.sequence
	if sel.ByPosition {
		order = r.position
		if sel.Limit > 0 {
			order += fmt.Sprintf("\nfetch first %d rows with ties", sel.Limit)
		}
	}
	return fmt.Sprintf("select %s\nfrom %s\nwhere %s\norder by %s", r.row.columns, r.from(""), where, order), args
}

// Events streams the selection by aggregate and, within each, by sequence number, or by position: in one statement, so in one
// snapshot.
// The event is borrowed until the next step. The connection is busy until the loop ends; breaking off is allowed.
func (r *Reader) Events(ctx context.Context, tx pgx.Tx, sel Selection) iter.Seq2[*Event, error] {
	sql, args := r.eventsSQL(sel)
	return func(yield func(*Event, error) bool) {
		if err := r.rows(ctx, tx, sql, args, &cursor{bounds: sel.Bounds}, yield); err != nil {
			yield(nil, err)
		}
	}
}

// fetched is how many rows a cursor hands out at a time: few enough that those on their way fit into the buffers between
// server and client, many enough that the round trips do not show where they are short.
const fetched = 2048

// A fetch is asked for before the last one has come if the round trip is long: one more for each roundTripEach, in which a
// server hands out about as many rows.
const (
	roundTripEach = 5 * time.Millisecond
	mostAhead     = 15
)

// ahead returns how many fetches are asked for before the first has come.
func ahead(roundTrip time.Duration) int {
	if roundTrip < time.Millisecond/2 {
		return 0
	}
	return min(1+int(roundTrip/roundTripEach), mostAhead)
}

// Scan is Events with a cursor, for long selections whose reader has other things to do between events: while it does, the
// server waits for the next command and not in the middle of a result, where nothing could interrupt it, not even
// idle_in_transaction_session_timeout. Behind a network the server may be in the middle of the next result; it is busy then for as
// long as its reader. A transaction can have one Scan.
func (r *Reader) Scan(ctx context.Context, tx pgx.Tx, sel Selection) iter.Seq2[*Event, error] {
	return r.scanAhead(ctx, tx, sel, ahead)
}

func (r *Reader) scanAhead(ctx context.Context, tx pgx.Tx, sel Selection, ahead func(roundTrip time.Duration) int) iter.Seq2[*Event, error] {
	sql, args := r.eventsSQL(sel)
	return r.stream(ctx, tx, sql, args, sel.Sorting, ahead, &cursor{bounds: sel.Bounds})
}

// stream declares a cursor for a statement with the columns of eventsSQL, and yields its rows.
func (r *Reader) stream(
	ctx context.Context, tx pgx.Tx, sql string, args []any, sorting Sorting, ahead func(roundTrip time.Duration) int, c *cursor,
) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		roundTrip, err := declare(ctx, tx, sql, args, sorting)
		if err == nil {
			err = r.fetch(ctx, tx, 1+ahead(roundTrip), c, yield)
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// fetch yields the rows of the cursor projector_events, and has so many fetches under way.
func (r *Reader) fetch(ctx context.Context, tx pgx.Tx, underWay int, c *cursor, yield func(*Event, error) bool) (err error) {
	p := tx.Conn().PgConn().StartPipeline(ctx)
	more := true
	defer func() { // it also drops what is left under way; who has left the loop finds a broken connection with the next statement
		if closed := p.Close(); more && err == nil && closed != nil {
			err = fmt.Errorf("reading events: %w", closed)
		}
	}()
	sql := fmt.Sprintf("fetch %d from projector_events", fetched)
	ask := func() error {
		p.SendQueryParams(sql, nil, nil, nil, []int16{pgx.BinaryFormatCode})
		return p.Sync() // between two fetches the session is idle
	}
	for range underWay {
		if err := ask(); err != nil {
			return fmt.Errorf("reading events: %w", err)
		}
	}
	for {
		var n int
		n, more, err = r.fetchedRows(p, c, yield)
		if err != nil || !more || n < fetched {
			return err
		}
		if err := ask(); err != nil {
			return fmt.Errorf("reading events: %w", err)
		}
	}
}

// fetchedRows yields the rows of one fetch. It returns their number, and false if the loop was left.
func (r *Reader) fetchedRows(p *pgconn.Pipeline, c *cursor, yield func(*Event, error) bool) (n int, more bool, err error) {
	results, err := p.GetResults()
	if err != nil {
		return 0, true, fmt.Errorf("reading events: %w", err)
	}
	rows, ok := results.(*pgconn.ResultReader)
	if !ok {
		return 0, true, fmt.Errorf("reading events: the server has answered with %T", results)
	}
	for rows.NextRow() {
		n++
		if more, err := r.take(rows.Values(), c, yield); err != nil || !more {
			return n, more, err
		}
	}
	if _, err := rows.Close(); err != nil {
		return n, true, fmt.Errorf("reading events: %w", err)
	}
	if _, err := p.GetResults(); err != nil { // of the sync
		return n, true, fmt.Errorf("reading events: %w", err)
	}
	return n, true, nil
}

// declare makes the cursor projector_events, and returns how long a round trip takes, about. A cursor is planned for its first rows
// unless it is told that all will be fetched. What it sets lasts until the transaction ends.
func declare(ctx context.Context, tx pgx.Tx, sql string, args []any, sorting Sorting) (roundTrip time.Duration, err error) {
	began := time.Now()
	_, err = tx.Exec(ctx, "select set_config('cursor_tuple_fraction', '1', true)"+sorting.planned())
	roundTrip = time.Since(began)
	if err == nil {
		_, err = tx.Exec(ctx, "declare projector_events no scroll cursor for "+sql, args...)
	}
	if err == nil {
		err = sorting.limit(ctx, tx)
	}
	if err != nil {
		return 0, fmt.Errorf("reading events: %w", err)
	}
	return roundTrip, nil
}

// Chunks is Scan, of about size events at a time. They are the caller's to keep, and between chunks the connection is free.
// The cursor ends with the loop, and
// with the transaction if the loop is left.
func (r *Reader) Chunks(ctx context.Context, tx pgx.Tx, sel Selection, size int) iter.Seq2[[]projections.Raw, error] {
	sql, args := r.eventsSQL(sel)
	return func(yield func([]projections.Raw, error) bool) {
		if _, err := declare(ctx, tx, sql, args, sel.Sorting); err != nil {
			yield(nil, err)
			return
		}
		c := &cursor{}
		for full := true; full; {
			chunk := make([]projections.Raw, 0, size)
			err := r.rows(ctx, tx, fmt.Sprintf("fetch %d from projector_events", size), nil, c, func(e *Event, _ error) bool {
				chunk = append(chunk, e.Clone())
				return true
			})
			if err != nil {
				yield(nil, err)
				return
			}
			full = len(chunk) == size
			if len(chunk) > 0 && !yield(chunk, nil) {
				return // whoever leaves the loop ends the transaction
			}
		}
		if _, err := tx.Exec(ctx, "close projector_events"); err != nil {
			yield(nil, fmt.Errorf("reading events: %w", err))
		}
	}
}

// cursor is where a selection stands.
type cursor struct {
	bounds []projections.ID
	event  Event
}

// rows yields the rows of a statement with the columns of eventsSQL, until the loop is left.
func (r *Reader) rows(ctx context.Context, tx pgx.Tx, sql string, args []any, c *cursor, yield func(*Event, error) bool) error {
	rows, err := tx.Query(ctx, sql, append([]any{pgx.QueryResultFormats{pgx.BinaryFormatCode}}, args...)...)
	if err != nil {
		return fmt.Errorf("reading events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if more, err := r.take(rows.RawValues(), c, yield); err != nil || !more {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading events: %w", err)
	}
	return nil
}

// take yields one row. It returns false if the loop was left.
func (r *Reader) take(row [][]byte, c *cursor, yield func(*Event, error) bool) (more bool, err error) {
	e := &c.event
	if err := r.scan(&e.Raw, row); err != nil {
		return true, err
	}
	for e.Part < len(c.bounds) && e.AggregateID.Compare(c.bounds[e.Part]) >= 0 {
		e.Part++
	}
	return yield(e, nil), nil
}

// PostgreSQL's binary timestamps count microseconds from here.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// scan fills e from a row of the select list that bind made; the formats are fixed by its casts.
func (r *Reader) scan(e *projections.Raw, v [][]byte) error {
	if v[0] == nil {
		return errors.New("an event without a position")
	}
	e.Position = int64(binary.BigEndian.Uint64(v[0]))
	if v[1] == nil || v[2] == nil || v[3] == nil {
		return fmt.Errorf("event %d: aggregate id, sequence number or type is null", e.Position)
	}
	if r.idType == "uuid" {
		e.AggregateID = projections.UUID([16]byte(v[1]))
	} else if e.AggregateID.IsZero() || e.AggregateID.String() != string(v[1]) { // ids come in runs: allocate once per aggregate
		e.AggregateID = projections.Text(string(v[1]))
	}
	e.Sequence = int64(binary.BigEndian.Uint64(v[2]))
	e.Type, e.Data = v[3], payload(v[4], r.row.versioned)
	e.Time = time.Time{}
	if v[5] != nil {
		e.Time = time.UnixMicro(int64(binary.BigEndian.Uint64(v[5])) + postgresEpoch).UTC()
	}
	if i := r.row.metadata; i > 0 {
		e.Metadata = payload(v[i], r.row.metadataVersioned)
	}
	if i := r.row.aggregateType; i > 0 {
		again(&e.AggregateType, v[i])
	}
	if i := r.row.schemaVersion; i > 0 {
		again(&e.SchemaVersion, v[i])
	}
	if i := r.row.tenant; i > 0 {
		again(&e.Tenant, v[i])
	}
	if i := r.row.partition; i > 0 {
		switch {
		case v[i] == nil:
			e.Partition = projections.ID{}
		case r.row.partitionUUID:
			e.Partition = projections.UUID([16]byte(v[i]))
		case e.Partition.IsZero() || e.Partition.String() != string(v[i]):
			e.Partition = projections.Text(string(v[i]))
		}
	}
	return nil
}

func payload(v []byte, versioned bool) []byte {
	if versioned && len(v) > 0 {
		return v[1:]
	}
	return v
}

// again sets s to v, which is often what it is already.
func again(s *string, v []byte) {
	if *s != string(v) {
		*s = string(v)
	}
}

// Count returns the number of events in the selection. It reads them all: for what is left, not for the whole store.
func (r *Reader) Count(ctx context.Context, q pg.Querier, sel Selection) (int64, error) {
	where, args := r.where(sel)
	var n int64
	err := q.QueryRow(ctx, fmt.Sprintf("select count(*) from %s where %s", r.from(""), where), args...).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting events: %w", err)
	}
	return n, nil
}

// ParseID reads an aggregate id as PostgreSQL prints it; empty text is the zero ID.
func (r *Reader) ParseID(text string) (projections.ID, error) {
	if text == "" {
		return projections.ID{}, nil
	}
	if r.idType != "uuid" {
		return projections.Text(text), nil
	}
	u, err := uuid.Parse(text)
	if err != nil {
		return projections.ID{}, fmt.Errorf("aggregate id %q: %w", text, err)
	}
	return projections.UUID(u), nil
}
