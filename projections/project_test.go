package projections_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

func TestProject(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	meta := func(position int64, id uuid.UUID, name string) projections.Meta {
		return projections.Meta{Position: position, AggregateID: projections.UUID(id), Sequence: position, Type: name}
	}
	project := func(events ...projections.New) error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return set.Project(t.Context(), projections.Pgx(tx), events...)
		})
	}
	for _, c := range []struct {
		name, want string
		event      projections.New
	}{
		{"a payload", "", projections.New{Meta: meta(1, ada, ""), Data: opened{Owner: "Ada", IBAN: "NL1"}}},
		{"a pointer", "", projections.New{Meta: meta(2, ada, ""), Data: &deposited{Amount: 3}}},
		{"a type", "", projections.New{Meta: meta(3, ada, "MoneyDeposited"), Data: deposited{Amount: 4}}},
		{"ignored", "", projections.New{Meta: meta(4, ada, "StatementPrinted"), Data: 7}},
		{"nil pointer", "its data is a nil *projections_test.deposited", projections.New{Meta: meta(5, ada, ""), Data: (*deposited)(nil)}},
		{"no data", "no event type has the payload <nil>", projections.New{Meta: meta(5, ada, "")}},
		{"unknown payload", "event 5 (, aggregate 01020304-0506-0708-090a-0b0c0d0e0f10, sequence 5): no event type has the payload int", projections.New{Meta: meta(5, ada, ""), Data: 7}},
		{"wrong type", "is a projections_test.deposited, which is the payload of MoneyDeposited", projections.New{Meta: meta(5, ada, "AccountClosed"), Data: deposited{}}},
		{"no aggregate", "without an aggregate id", projections.New{Data: deposited{}}},
		{"no row", "projector accounts: event 5 (AccountClosed", projections.New{Meta: meta(5, bob, ""), Data: closed{}}},
	} {
		err := project(c.event)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s:\ngot  %v\nwant %s", c.name, err, c.want)
		}
	}
	if got := text(t, pool, "select concat_ws(' ', owner, balance, version) from accounts"); got != "Ada 7 3" {
		t.Error(got)
	}
	if got := text(t, pool, "select string_agg(balance::text, ' ' order by seq) from transactions"); got != "3 7" {
		t.Error(got)
	}
}

func TestProjectAmbiguousPayload(t *testing.T) {
	t.Parallel()
	set, err := projections.NewSet(append(bankEvents[:4:4], projections.JSON[opened]("AccountImported")), accountsProjector)
	if err != nil {
		t.Fatal(err)
	}
	err = set.Project(t.Context(), nil, projections.New{Meta: projections.Meta{AggregateID: projections.UUID(ada)}, Data: opened{}})
	if err == nil || !strings.Contains(err.Error(), "the payload projections_test.opened is that of AccountOpened and AccountImported: set Type") {
		t.Error(err)
	}
}

// What is projected is part of the application's transaction, and so are its failures.
func TestProjectIsInTheTransaction(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	open := projections.New{Meta: projections.Meta{Position: 1, AggregateID: projections.UUID(ada)}, Data: opened{}}
	if err := set.Project(t.Context(), projections.SQL(tx), open); err != nil {
		t.Fatal(err)
	}
	var inside int
	if err := tx.QueryRowContext(t.Context(), "select count(*) from accounts where id = $1", ada).Scan(&inside); err != nil || inside != 1 {
		t.Errorf("%d rows in the transaction, %v", inside, err)
	}
	err = set.Project(t.Context(), projections.SQL(tx), open)
	if event, ok := errors.AsType[*projections.EventError](err); !ok || event.Projector != "accounts" || !errors.Is(err, projections.ErrExists) {
		t.Error(err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if got := text(t, pool, "select count(*)::text from accounts"); got != "0" {
		t.Errorf("%s rows after the rollback", got)
	}
}

func TestProjectNeedsPgx(t *testing.T) {
	t.Parallel()
	_, set := bank(t)
	db := sql.OpenDB(otherDriver{})
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	err = set.Project(t.Context(), projections.SQL(tx),
		projections.New{Meta: projections.Meta{AggregateID: projections.UUID(ada)}, Data: opened{}})
	if err == nil || !strings.Contains(err.Error(), "the transaction is not of pgx's database/sql driver") {
		t.Error(err)
	}
}

// otherDriver is a database/sql driver that is not pgx.
type otherDriver struct{}

func (d otherDriver) Connect(context.Context) (driver.Conn, error) { return d, nil }
func (d otherDriver) Driver() driver.Driver                        { return nil }
func (d otherDriver) Prepare(string) (driver.Stmt, error)          { return d, nil }
func (d otherDriver) Close() error                                 { return nil }
func (d otherDriver) Begin() (driver.Tx, error)                    { return d, nil }
func (d otherDriver) Commit() error                                { return nil }
func (d otherDriver) Rollback() error                              { return nil }
func (d otherDriver) NumInput() int                                { return -1 }
func (d otherDriver) Exec([]driver.Value) (driver.Result, error)   { return driver.ResultNoRows, nil }

func (d otherDriver) Query([]driver.Value) (driver.Rows, error) { return nil, errors.New("none") }

// Two transactions that have drawn their positions would project in the order of their commits. The second waits for the first
// instead, before it draws one.
func TestTakeTurn(t *testing.T) {
	t.Parallel()
	pool, set := pgtest.Database(t, setupPlaces), placesSet(t)
	event := func(position int64, s seating) projections.New {
		return projections.New{Meta: projections.Meta{Position: position, AggregateID: projections.UUID(ada)}, Data: s}
	}
	begin := func(o pgx.TxOptions) pgx.Tx {
		tx, err := pool.BeginTx(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
		return tx
	}
	first, second := begin(pgx.TxOptions{}), begin(pgx.TxOptions{})
	ada, berta := event(0, seating{"upsert", "IC 1", 1, "Ada"}), event(0, seating{"upsert", "IC 1", 1, "Berta"})
	if err := set.TakeTurn(t.Context(), projections.Pgx(first), ada); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Exec(t.Context(), "set local lock_timeout = '1ms'; savepoint s"); err != nil {
		t.Fatal(err)
	}
	if err := set.TakeTurn(t.Context(), projections.Pgx(second), berta); err == nil || !strings.Contains(err.Error(), "waiting for the turn") {
		t.Fatalf("two transactions have the turn: %v", err)
	}
	if _, err := second.Exec(t.Context(), "rollback to s"); err != nil {
		t.Fatal(err)
	}
	if err := set.TakeTurn(t.Context(), projections.Pgx(second)); err != nil {
		t.Errorf("without an event of an ordered projector: %v", err)
	}
	if err := set.Project(t.Context(), projections.Pgx(second), berta); !errors.Is(err, projections.ErrTurn) || !strings.Contains(err.Error(), "call Set.TakeTurn") {
		t.Errorf("projected out of turn: %v", err)
	}
	ada.Position = 1
	if err := errors.Join(set.Project(t.Context(), projections.Pgx(first), ada), first.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	berta.Position = 2
	if err := errors.Join(set.TakeTurn(t.Context(), projections.Pgx(second), berta),
		set.Project(t.Context(), projections.Pgx(second), berta), second.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := text(t, pool, "select concat_ws(' ', holder, since, visits) from places"); got != "Berta 2 2" {
		t.Error(got)
	}
	snapshot := begin(pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	err := errors.Join(set.TakeTurn(t.Context(), projections.Pgx(snapshot), ada), set.Project(t.Context(), projections.Pgx(snapshot), ada))
	if !errors.Is(err, projections.ErrTurn) || !strings.Contains(err.Error(), "repeatable read") {
		t.Errorf("projected from an old snapshot: %v", err)
	}
}
