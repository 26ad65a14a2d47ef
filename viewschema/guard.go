package viewschema

import (
	"cmp"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// GuardQuery returns the query with which a transaction that writes view tables should begin: it fails, with SQLSTATE
// 42P01 (undefined_table), once another version than the given one is current, and with 22012 (division_by_zero) in a
// snapshot that is older than the cutover. Old code so cannot write into new tables. It writes nothing. An empty schema
// means DefaultSchema.
func GuardQuery(schema string, version int) string {
	return "select 1 / count(*) from " + pg.Table(cmp.Or(schema, DefaultSchema), guardName(version))
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
