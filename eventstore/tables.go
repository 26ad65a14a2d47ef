package eventstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Tables returns the oids of the tables that hold the events' rows: the event table, or what is below it at the moment.
func (r *Reader) Tables(ctx context.Context, q pg.Querier) ([]uint32, error) {
	tables, err := pg.Collect(ctx, q, pgx.RowTo[uint32], `
		select c.oid
		from (`+pg.Tree("$1")+`) tree join pg_catalog.pg_class c on c.oid = tree.id and c.relkind <> 'p'
		order by 1`, pg.Once, r.base.table)
	if err != nil {
		return nil, fmt.Errorf("listing the tables of %s: %w", r.relation, err)
	}
	return tables, nil
}

// Attached names one of the tables that has events at or below a cut. It is for tables that were not there when that cut was settled: nobody
// has waited for their events. It is empty if none has any, and if a view computes the position, which then has no such cut.
func (r *Reader) Attached(ctx context.Context, q pg.Querier, tables []uint32, cut int64) (name string, err error) {
	position := r.drawn
	if r.isView {
		if r.base.position == "" {
			return "", nil
		}
		position = "e." + pgx.Identifier{r.base.position}.Sanitize()
	}
	for _, table := range tables {
		var has bool
		err := q.QueryRow(ctx, `
			select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
			from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
			where c.oid = $1`, table).Scan(&name)
		if err == nil {
			err = q.QueryRow(ctx, fmt.Sprintf(
				"select exists (select from %[1]s e where %[2]s <= $1) or exists (select from %[1]s e where %[2]s is null)", name, position), cut).Scan(&has)
		}
		switch {
		case err != nil:
			return "", fmt.Errorf("looking for events in the tables of %s: %w", r.relation, err)
		case has:
			return name, nil
		}
	}
	return "", nil
}
