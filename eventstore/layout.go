package eventstore

import (
	"context"
	"fmt"
	"math"

	"github.com/viewschema/projector/internal/pg"
)

// Layout tells how the events lie in their table, which decides how to read them in the order of aggregates.
type Layout struct {
	Bytes       int64   `json:"bytes"`       // of the table, without its indexes; 0 if that cannot be known
	Cache       int64   `json:"cache"`       // bytes: the server's effective_cache_size
	Rows        int64   `json:"events"`      // about
	Indexed     bool    `json:"indexed"`     // an index finds the aggregates of a range
	Correlation float64 `json:"correlation"` // of the order of ids with the order on disk, -1 to 1; 0 if nobody has analyzed the table
}

// Layout asks the catalog. Partitions of the table count as part of it. A correlation is known of each of them by itself, which is
// what matters: a range of ids is read from one after the other.
func (r *Reader) Layout(ctx context.Context, q pg.Querier) (Layout, error) {
	l := Layout{}
	err := q.QueryRow(ctx, `
		with parts as (`+pg.Tree("$1")+`)
		select (select coalesce(sum(pg_relation_size(id)), 0) from parts)::int8,
			pg_size_bytes(current_setting('effective_cache_size')),
			exists (
				select
				from pg_catalog.pg_index i
				join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
				where i.indrelid = $1 and a.attname = $2 and i.indisvalid and i.indpred is null
			),
			coalesce((
				select sum(s.correlation * greatest(c.relpages, 1)) / sum(greatest(c.relpages, 1))
				from parts p
				join pg_catalog.pg_class c on c.oid = p.id
				join pg_catalog.pg_namespace n on n.oid = c.relnamespace
				join pg_catalog.pg_stats s on s.schemaname = n.nspname and s.tablename = c.relname
				where s.attname = $2 and not s.inherited and s.correlation is not null
			), 0)::float8`, pg.Once, r.base.table, r.mapping.AggregateID).Scan(&l.Bytes, &l.Cache, &l.Indexed, &l.Correlation)
	l.Indexed = l.Indexed && r.collate == ""
	if err == nil && r.distributed {
		_, l.Bytes, err = r.clusterSize(ctx, q)
	}
	if err == nil {
		l.Rows, err = r.planned(ctx, q)
	}
	if err != nil {
		return l, fmt.Errorf("looking up the size of %s: %w", r.relation, err)
	}
	return l, nil
}

// page is PostgreSQL's usual block size.
const page = 8192

// Cached says whether the server can be expected to keep the table in memory.
func (l Layout) Cached() bool { return l.Bytes <= l.Cache }

// Scanned says whether each statement looks at the whole table, whose size is known, since no index finds the aggregates of a range.
func (l Layout) Scanned() bool { return !l.Indexed && l.Bytes > 0 }

// TimesRead is about how often the table is read from disk by so many statements, each of which reads the aggregates of
// one range of ids: once if it stays in memory, or if ids lie in order. If ids are random, a range has events on most pages,
// and each statement reads most of the table. The planner weighs the two in the same way (see genericcostestimate and
// cost_index in its sources).
func (l Layout) TimesRead(statements int) float64 {
	if l.Cached() || statements <= 1 {
		return 1
	}
	if l.Scanned() {
		return float64(statements)
	}
	perPage := float64(l.Rows) / math.Max(1, float64(l.Bytes)/page)
	hit := 1 - math.Pow(1-1/float64(statements), math.Max(1, perPage))
	ordered := l.Correlation * l.Correlation
	return ordered + (1-ordered)*hit*float64(statements)
}
