package viewschema_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// version2 is the bank's second release.
func version2() viewschema.Definition {
	d := bank.Definition
	d.Versions = d.Versions.UpTo(2)
	return d
}

// emptyStore is a database with an event table.
func emptyStore(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, bank.EventTable)
	return err
}

// filledStore is a database with 10,000 events.
func filledStore(ctx context.Context, conn *pgx.Conn) error {
	if err := emptyStore(ctx, conn); err != nil {
		return err
	}
	return bank.Fill(ctx, conn, 10_000, 1)
}

// atVersion1 is a database whose first release is live.
func atVersion1(ctx context.Context, conn *pgx.Conn) error {
	return goLive(ctx, conn, v1.Definition)
}

// goLive fills the store and takes a release live.
func goLive(ctx context.Context, conn *pgx.Conn, d viewschema.Definition) error {
	if err := filledStore(ctx, conn); err != nil {
		return err
	}
	db, err := pgxpool.New(ctx, conn.Config().ConnString())
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := viewschema.Open(db, d, viewschema.Options{})
	if err != nil {
		return err
	}
	if _, err := s.MigrateOnline(ctx); err != nil {
		return err
	}
	_, err = s.MigrateOffline(ctx)
	return err
}

func open(t *testing.T, db *pgxpool.Pool, d viewschema.Definition) *viewschema.Schema {
	t.Helper()
	s, err := viewschema.Open(db, d, viewschema.Options{Log: zerolog.New(zerolog.NewTestWriter(t))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func online(t *testing.T, s *viewschema.Schema) viewschema.Result {
	t.Helper()
	r, err := s.MigrateOnline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func offline(t *testing.T, s *viewschema.Schema) viewschema.Result {
	t.Helper()
	r, err := s.MigrateOffline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// verify holds the live tables against a replay by hand.
func verify(t *testing.T, db *pgxpool.Pool, version int, names ...string) {
	t.Helper()
	for _, c := range verifyShape(t, db, version, names...) {
		if c.Rows == 0 {
			t.Errorf("%s: there is nothing to compare", c.Table)
		}
	}
}

// verifyShape is verify while writers are at work, who may have too little to do for every table to have rows.
func verifyShape(t *testing.T, db *pgxpool.Pool, version int, names ...string) []bank.Comparison {
	t.Helper()
	tables, err := bank.Verify(t.Context(), db, version, names...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range tables {
		if !c.Same() {
			t.Error(c)
		}
	}
	return tables
}

func mustExec(t *testing.T, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func scalar[T any](t *testing.T, db *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
