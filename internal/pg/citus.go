package pg

import (
	"context"
	"fmt"
)

// HasCitus says whether the database is one of a Citus cluster, and so has the catalog of its distributed tables, pg_dist_partition.
func HasCitus(ctx context.Context, q Querier) (has bool, err error) {
	if err := q.QueryRow(ctx, "select to_regclass('pg_catalog.pg_dist_partition') is not null", Once).Scan(&has); err != nil {
		return false, fmt.Errorf("looking for Citus: %w", err)
	}
	return has, nil
}
