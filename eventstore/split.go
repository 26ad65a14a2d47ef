package eventstore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// Part is a range and about how many events it holds.
type Part struct {
	Range
	Events int64
}

// smallStore is up to how many events a store is counted. The planner's estimate of a table that was never analyzed is far off
// when the table is small.
const smallStore = 50_000

// Estimate returns about how many events there are: the planner's estimate, or their number if they are few.
func (r *Reader) Estimate(ctx context.Context, q pg.Querier) (int64, error) {
	n, err := r.planned(ctx, q)
	if err != nil || n > smallStore {
		return n, err
	}
	return r.Count(ctx, q, Selection{})
}

func (r *Reader) planned(ctx context.Context, q pg.Querier) (int64, error) {
	if r.distributed {
		rows, _, err := r.clusterSize(ctx, q)
		return rows, err
	}
	where, args := r.where(Selection{})
	var plan []byte
	sql := fmt.Sprintf("explain (format json) select 1 from %s where %s", r.from(""), where)
	if err := q.QueryRow(ctx, sql, append([]any{pg.Once}, args...)...).Scan(&plan); err != nil {
		return 0, fmt.Errorf("estimating the number of events: %w", err)
	}
	var nodes []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal(plan, &nodes); err != nil || len(nodes) == 0 {
		return 0, fmt.Errorf("estimating the number of events: EXPLAIN answered %q: %w", plan, err)
	}
	return int64(nodes[0].Plan.Rows), nil
}

// sampleSize is how many events a split looks at. With 64 parts and 30,000 events, a part's share is known to about 5%.
const sampleSize = 30_000

// Split cuts all aggregates into ranges of about perRange events each. Bounds come from a sample of the table, so that
// UUIDv7 and text ids, whose first digits are far from even, balance like random ones. A bound falls on the edge of one of
// the 16³ partitions, the ids that share their first three hex digits, except inside a partition that is more than one
// range by itself. The first and the last range are open, so every id is in exactly one. An aggregate is never cut.
func (r *Reader) Split(ctx context.Context, q pg.Querier, perRange int64) ([]Part, error) {
	total, err := r.Estimate(ctx, q)
	if err != nil {
		return nil, err
	}
	tiles := max(1, (total+perRange/2)/perRange)
	if tiles == 1 {
		return []Part{{Events: total}}, nil
	}
	rows, err := q.Query(ctx, r.splitSQL(total), tiles)
	if err != nil {
		return nil, fmt.Errorf("sampling %s: %w", r.relation, err)
	}
	perTile := total / tiles
	parts := []Part{{}}
	var text string
	var tile, first int64 = 0, 1
	_, err = pgx.ForEachRow(rows, []any{&text, &tile}, func() error {
		bound, err := r.ParseID(text)
		if err != nil {
			return err
		}
		last := &parts[len(parts)-1]
		last.To, last.Events = bound, (tile-first)*perTile
		parts = append(parts, Part{Range: Range{From: bound}})
		first = tile
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sampling %s: %w", r.relation, err)
	}
	parts[len(parts)-1].Events = (tiles - first + 1) * perTile
	return parts, nil
}

// splitSQL yields the bounds in order, each with the number of the tile that it begins.
func (r *Reader) splitSQL(total int64) string {
	edge := "id"
	if r.idType == "uuid" {
		edge = `rpad(left(id::text, 3), 8, '0') || '-0000-0000-0000-000000000000'`
		edge = "case when (" + edge + ")::uuid > before then (" + edge + ")::uuid else id end"
	}
	where, _ := r.where(Selection{}) // all events: no parameters
	return fmt.Sprintf(`
with sample as (
  select %[1]s as id, ntile($1::int) over (order by %[1]s) as tile
  from %[2]s
  where %[3]s
), firsts as (
  select distinct on (tile) id, tile from sample order by tile, id
), distinct_firsts as (
  select distinct on (id) id, tile from firsts order by id, tile
), bounds as (
  select id, tile, lag(id) over (order by id) as before from distinct_firsts
)
select (%[4]s)::text, tile::int8 from bounds where before is not null order by id`,
		r.id+r.collate, r.from(r.sample(total)), where, edge)
}

// sample is the TABLESAMPLE clause for a table of about total events; empty if all of them are few enough, or if the
// relation is a view, which has no blocks to sample.
//
// SYSTEM reads whole blocks and so a fraction of the table. REPEATABLE is left out on purpose: with some seeds it returns
// a tenth of what was asked for.
func (r *Reader) sample(total int64) string {
	if total <= 4*sampleSize || r.isView {
		return ""
	}
	return fmt.Sprintf(" tablesample system (%g)", 100*float64(sampleSize)/float64(total))
}

// Label names a range in at most a few characters, for people: the first three hex digits of its ends, or the ends
// themselves if they are text.
func (rg Range) Label() string {
	end := func(id projections.ID, open string) string {
		switch {
		case id.IsZero():
			return open
		case id.IsUUID():
			return short(strings.ReplaceAll(id.String(), "-", ""))
		}
		return id.String()
	}
	if rg.From.IsZero() && rg.To.IsZero() {
		return "all"
	}
	return end(rg.From, "") + ".." + end(rg.To, "")
}

// short returns the first three digits, or more where the id lies inside of a partition.
func short(hex string) string {
	trimmed := strings.TrimRight(hex, "0")
	return hex[:max(3, min(len(trimmed), 8))]
}
