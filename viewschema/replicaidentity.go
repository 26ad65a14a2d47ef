package viewschema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/viewschema/projector/internal/pg"
)

// unwritable says why PostgreSQL would refuse every update or delete of a table: a publication has it, for which its replica identity
// does not do. It is empty if it would not. PostgreSQL looks at that when it begins to execute a statement, EXPLAIN included, which
// runs nothing: no trigger and no rule. See CheckCmdReplicaIdentity in execReplication.c.
func (s *Schema) unwritable(ctx context.Context, tx pgx.Tx, table string) (why string, err error) {
	columns, err := s.shape(ctx, tx, table)
	if err != nil || len(columns) == 0 {
		return "", err
	}
	name, column := pg.Table(s.def.Schema, table), pgx.Identifier{columns[0].Name}.Sanitize()
	for _, sql := range []string{"explain update " + name + " set " + column + " = default", "explain delete from " + name} {
		savepoint, err := tx.Begin(ctx)
		if err != nil {
			return "", err
		}
		_, refused := savepoint.Exec(ctx, "set local row_security = on; "+sql, pgx.QueryExecModeSimpleProtocol)
		if err := savepoint.Rollback(ctx); err != nil {
			return "", errors.Join(refused, err)
		}
		said, ok := errors.AsType[*pgconn.PgError](refused)
		switch {
		case refused == nil:
		case ok && (said.Code == "55000" || said.Code == "42P10"): // object_not_in_prerequisite_state, invalid_column_reference
			why := said.Message
			if said.Detail != "" {
				why += ": " + said.Detail
			}
			return why, nil
		default:
			return "", fmt.Errorf("looking whether table %s could be written: %w", table, refused)
		}
	}
	return "", nil
}

// writable lists the tables that the plan replaces and that can be updated and deleted from.
func (s *Schema) writable(ctx context.Context, tx pgx.Tx, plan *Plan) (tables []string, err error) {
	for _, t := range plan.replayed() {
		why, err := s.unwritable(ctx, tx, t.Table)
		if err != nil {
			return nil, err
		}
		if why == "" {
			tables = append(tables, t.Table)
		}
	}
	return tables, nil
}

// checkWritable refuses a cutover after which nobody could write tables any more that could be written before.
func (s *Schema) checkWritable(ctx context.Context, tx pgx.Tx, tables []string) error {
	r := &refusal{}
	for _, t := range tables {
		why, err := s.unwritable(ctx, tx, t)
		if err != nil {
			return err
		}
		if why != "" {
			r.add("with the publications that it has, nobody could update the new table %s: %s; give it the replica identity in its SQL files, "+
				"or change the publication before the cutover", t, why)
		}
	}
	return r.orNil()
}
