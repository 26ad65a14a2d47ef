package projections

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"
)

// DB is a transaction of the application: Pgx, Bun or SQL.
type DB interface {
	// use calls fn with the transaction's connection, while nobody else can use it.
	use(ctx context.Context, fn func(conn *pgx.Conn) error) error
}

// Pgx projects in a transaction of pgx or pgxpool.
func Pgx(tx pgx.Tx) DB { return pgxTx{tx} }

// Bun projects in a transaction of bun, on pgx's database/sql driver.
func Bun(tx bun.Tx) DB { return sqlTx{tx.Tx} }

// SQL projects in a transaction of database/sql, on pgx's driver.
func SQL(tx *sql.Tx) DB { return sqlTx{tx} }

type pgxTx struct{ tx pgx.Tx }

func (t pgxTx) use(_ context.Context, fn func(*pgx.Conn) error) error { return fn(t.tx.Conn()) }

type sqlTx struct{ tx *sql.Tx }

// use reaches the connection below a *sql.Tx as a pgx.QueryRewriter, which pgx's driver calls with it before it sends a
// statement. database/sql holds the connection meanwhile.
func (t sqlTx) use(ctx context.Context, fn func(*pgx.Conn) error) error {
	b := &borrower{fn: fn}
	_, err := t.tx.ExecContext(ctx, "-- project events", b)
	switch {
	case b.called && b.err != nil:
		return b.err
	case !b.called && err == nil:
		return errors.New("projections: the transaction is not of pgx's database/sql driver (github.com/jackc/pgx/v5/stdlib)")
	case !b.called && strings.Contains(err.Error(), "unsupported type"):
		return fmt.Errorf("projections: the transaction is not of pgx's database/sql driver (github.com/jackc/pgx/v5/stdlib): %w", err)
	}
	return err
}

type borrower struct {
	fn     func(*pgx.Conn) error
	called bool
	err    error
}

// RewriteQuery implements pgx.QueryRewriter.
func (b *borrower) RewriteQuery(_ context.Context, conn *pgx.Conn, sql string, _ []any) (string, []any, error) {
	b.called = true
	b.err = b.fn(conn)
	return sql, nil, b.err
}

// New is an event that the application has just appended. Data is a payload or a pointer to one. Type may be empty if only
// one event type has this payload.
type New struct {
	Meta
	Data any
}

// Project applies events to the tables, in the order given, in the application's transaction: what a catch-up would do with
// them, except that payloads come as the application has them and not out of a decoder. Events that nobody handles are
// skipped; a payload or type that the set does not know is an error, and so is a set with SQL tables, ErrSQLTable, and a
// transaction that has not taken its turn, ErrTurn: see TakeTurn. For projectors with the order ByPartition, the application fills in
// Meta.Partition; if it does not, that is ErrPartition. After an error the transaction has to be rolled back.
func (s *Set) Project(ctx context.Context, tx DB, events ...New) error {
	if tables := s.SQLTables(); len(tables) > 0 {
		return fmt.Errorf("%w: %s of projector %s; project a set without it, see Set.Only, and let the application write the table itself",
			ErrSQLTable, tables[0].Title, tables[0].Projector)
	}
	for _, part := range s.parts() {
		if err := part.project(ctx, tx, events); err != nil {
			return err
		}
	}
	return nil
}

// project is Project for projectors of one order.
func (s *Set) project(ctx context.Context, tx DB, events []New) error {
	applied, used, aggregates, err := s.prepare(events)
	if err != nil || len(applied) == 0 {
		return err
	}
	r, ok := s.spare.Get().(*Run)
	if !ok {
		r = s.CatchUp()
	}
	defer func() {
		r.end(errNotBegun)
		s.spare.Put(r)
	}()
	return tx.use(ctx, func(conn *pgx.Conn) error {
		if s.Order() != ByAggregate {
			if err := s.checkTurn(ctx, conn); err != nil {
				return err
			}
		}
		var stores []*Store
		for i, store := range r.stores {
			if used[i] {
				stores = append(stores, store)
			}
		}
		if err := r.begin(ctx, conn, aggregates, stores, false); err != nil {
			return err
		}
		for _, e := range applied {
			if err := r.applyNew(e); err != nil {
				return err
			}
		}
		_, err := r.Flush()
		return err
	})
}

func (r *Run) applyNew(e New) error {
	return r.take(applied{applier: r.appliers[e.Type], meta: &e.Meta, data: e.Data})
}

// prepare names the events' types and keeps those that are handled. used are the projectors that do. aggregates are partitions
// if these take their place.
func (s *Set) prepare(events []New) (handled []New, used map[int]bool, aggregates []ID, err error) {
	used, seen := map[int]bool{}, map[ID]bool{}
	for _, e := range events {
		if e.Type, err = s.typeOf(e); err != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w", e.title(), err)
		}
		b := s.bindings[e.Type]
		if b == nil {
			continue
		}
		id := e.AggregateID
		if s.Order() == ByPartition {
			if id = e.Partition; id.IsZero() {
				return nil, nil, nil, fmt.Errorf("%s: %w", e.title(), ErrPartition)
			}
			if id == NoPartition {
				continue
			}
		}
		for _, i := range b.projectors() {
			used[i] = true
		}
		if !seen[id] {
			seen[id] = true
			aggregates = append(aggregates, id)
		}
		handled = append(handled, e)
	}
	return handled, used, aggregates, nil
}

func (s *Set) typeOf(e New) (string, error) {
	t := reflect.TypeOf(e.Data)
	if t != nil && t.Kind() == reflect.Pointer && s.byType[t] == nil {
		if reflect.ValueOf(e.Data).IsNil() {
			return e.Type, fmt.Errorf("its data is a nil %v", t)
		}
		t = t.Elem()
	}
	names := s.byType[t]
	switch {
	case len(names) == 0 && e.Type != "" && s.ignores(e.Type):
		return e.Type, nil
	case len(names) == 0:
		return e.Type, fmt.Errorf("no event type has the payload %v", t)
	case e.Type == "" && len(names) > 1:
		return "", fmt.Errorf("the payload %v is that of %s: set Type", t, strings.Join(names, " and "))
	case e.Type == "":
		return names[0], nil
	}
	if slices.Contains(names, e.Type) {
		return e.Type, nil
	}
	return e.Type, fmt.Errorf("its data is a %v, which is the payload of %s", t, strings.Join(names, ", "))
}

func (s *Set) ignores(name string) bool {
	for _, t := range s.events {
		if t.payload() == nil && slices.Contains(t.names(), name) {
			return true
		}
	}
	return false
}
