package eventstore

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Sorting is how PostgreSQL puts what a cursor reads in order. The zero Sorting is as its settings say.
type Sorting struct {
	Always bool  // it sorts, and does not follow an index
	Memory int64 // bytes: it sorts in no more; 0: in work_mem
}

// cacheOfCore is about how many bytes the own cache of a core holds.
const cacheOfCore = 2 << 20

// largestInCache is up to how many bytes sorting in cacheOfCore was seen to pay off.
const largestInCache = 1 << 30

// Sorting returns how to sort each of so many parts of the store, which costs the server's cores most of what reading does.
//
// Of a table in memory, an index in the order of ids would be followed event by event, to pages all over it. The planner takes that
// for cheap if random_page_cost is low, as for a disk without moving parts, or if ids are in the order of time. But a sort takes less
// of a core, unless the table lies in the very order of its ids.
//
// PostgreSQL compares ids by their first 8 bytes, which it keeps side by side, and goes to the rows where these are equal, as in
// account-1 and account-2. With much memory each comparison then waits for two rows somewhere in it. What a core's
// cache holds does not keep it waiting, and is merged afterwards, several times over, in temporary files for which memory has room. So text
// ids are sorted in little; UUIDs would take longer. So would large events: PostgreSQL has work_mem for what it hands out at a time, too
// (FillPortalStore in its pquery.c).
//
// A table that exceeds memory is left to the planner: an index may spare it most reads. So is what joins, which has a use for indexes and
// memory of its own.
func (r *Reader) Sorting(l Layout, parts int) Sorting {
	if r.isView || r.distributed || r.mapping.Join != "" || l.Bytes == 0 || !l.Cached() {
		return Sorting{}
	}
	s := Sorting{Always: true}
	small := l.Bytes*fetched <= l.Rows*cacheOfCore/2
	if r.idType != "uuid" && small && l.Bytes <= l.Cache/2 && l.Bytes/int64(parts) <= largestInCache {
		s.Memory = cacheOfCore
	}
	return s
}

// planned is what the planner is to know: more of a select list.
func (s Sorting) planned() string {
	if !s.Always {
		return ""
	}
	return ", set_config('enable_indexscan', 'off', true)" // bitmaps are still made of an index
}

// limit is what the planner is not to know, since it would take the sort for dearer: it comes after declare, and before the first row is
// fetched, at which a sort asks for work_mem (ExecSort in nodeSort.c of PostgreSQL's sources).
func (s Sorting) limit(ctx context.Context, tx pgx.Tx) error {
	if s.Memory == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		select set_config('work_mem', $1::int8 / 1024 || 'kB', true)
		where $1 < pg_size_bytes(current_setting('work_mem'))`, pg.Once, s.Memory)
	return err
}
