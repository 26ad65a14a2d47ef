package viewschema

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Guard begins a transaction that writes view tables: it returns ErrVersion unless version is the current one, and keeps it
// current until the transaction ends. Old code so cannot write into new tables, and neither can a snapshot that is older
// than the cutover, which would see them incomplete. It has to be the transaction's first statement, but for projections.Set.TakeTurn: who waits
// for a turn behind the guard would keep a cutover from it. It costs one round trip and writes nothing. After ErrVersion the transaction can only be rolled back. An empty schema means DefaultSchema.
func Guard(ctx context.Context, tx pgx.Tx, schema string, version int) error {
	_, err := tx.Exec(ctx, GuardQuery(schema, version))
	return guardError(err, version)
}

// GuardSQL is Guard for a bun.Tx or a *sql.Tx, on pgx's database/sql driver.
func GuardSQL(ctx context.Context, tx SQLTx, schema string, version int) error {
	_, err := tx.ExecContext(ctx, GuardQuery(schema, version))
	return guardError(err, version)
}

// SQLTx is a bun.Tx or a *sql.Tx.
type SQLTx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// GuardQuery returns the query of Guard, for applications that are not written in Go. It fails with SQLSTATE 42P01
// (undefined_table) once another version is current, and with 22012 (division_by_zero) in a snapshot that is older than the
// cutover.
func GuardQuery(schema string, version int) string {
	return "select 1 / count(*) from " + pg.Table(cmp.Or(schema, DefaultSchema), guardName(version))
}

func guardError(err error, version int) error {
	switch {
	case err == nil:
		return nil
	case pg.IsUndefined(err), pg.IsDivisionByZero(err):
		return fmt.Errorf("%w than %d: %w", ErrVersion, version, err)
	}
	return fmt.Errorf("looking whether the view schema is at version %d: %w", version, err)
}

func guardName(version int) string { return fmt.Sprintf("at_%d", version) }

// closeGuard drops a version's guard. It waits for the transactions that have passed it: they hold its ACCESS SHARE lock.
func (s *Schema) closeGuard(ctx context.Context, tx pgx.Tx, version int) error {
	if version == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, "drop table if exists "+pg.Table(s.def.Schema, guardName(version))); err != nil {
		return fmt.Errorf("closing the guard of version %d: %w", version, err)
	}
	return nil
}

// openGuard makes a version's guard. Its row is visible to snapshots that see the cutover, and to no other.
func (s *Schema) openGuard(ctx context.Context, tx pgx.Tx, version int) error {
	table := pg.Table(s.def.Schema, guardName(version))
	batch := &pgx.Batch{}
	batch.Queue("create table " + table + " as select now() as since")
	batch.Queue("grant select on " + table + " to public")
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("opening the guard of version %d: %w", version, err)
	}
	return nil
}
