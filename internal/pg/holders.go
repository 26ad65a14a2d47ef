package pg

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Holder is a transaction that holds a lock.
type Holder struct {
	// Transaction is its virtual transaction id. A prepared transaction has -1/ and its xid.
	Transaction string
	About       string // who and since when, for people; never the query, which may hold payloads
}

// Lock modes that writers conflict with, as pg_locks names them; see https://www.postgresql.org/docs/current/explicit-locking.html.
const (
	RowExclusive         = "RowExclusiveLock"
	ShareUpdateExclusive = "ShareUpdateExclusiveLock" // VACUUM and ANALYZE
	Share                = "ShareLock"                // CREATE INDEX
	ShareRowExclusive    = "ShareRowExclusiveLock"
	Exclusive            = "ExclusiveLock"
	AccessExclusive      = "AccessExclusiveLock"
)

// Holders lists the transactions that hold one of the modes, or any if none is given, on one of the relations or on a
// table below one, our own connection's apart, oldest first. They go by virtual transaction and not by process: a prepared transaction has no
// process, and a process goes on to its next transaction.
func Holders(ctx context.Context, q Querier, relations []uint32, modes ...string) ([]Holder, error) {
	list, err := Collect(ctx, q, pgx.RowToStructByPos[Holder], `
		select l.virtualtransaction,
			coalesce(pg_catalog.format('pid %s (%s, user %s, in its transaction since %s)', l.pid,
				coalesce(nullif(a.application_name, ''), a.backend_type), coalesce(a.usename, '-'), to_char(a.xact_start, 'HH24:MI:SS')),
				'prepared transaction ' || l.virtualtransaction)
		from (
			select distinct virtualtransaction, pid
			from pg_catalog.pg_locks
			where locktype = 'relation'
			  and granted
			  and database = (select oid from pg_catalog.pg_database where datname = current_database())
			  and (mode = any ($2) or $2 is null)
			  and pid is distinct from pg_backend_pid()
			  and relation in (`+Tree("pg_catalog.unnest($1::oid[])")+`)
		) l
		left join pg_catalog.pg_stat_activity a on a.pid = l.pid
		order by a.xact_start nulls first`, Once, relations, modes)
	if err != nil {
		return nil, fmt.Errorf("looking for who holds locks: %w", err)
	}
	return list, nil
}

// Describe names holders in one line: the first three, and how many more there are.
func Describe(holders []Holder) string {
	list := make([]string, 0, len(holders))
	for i, h := range holders {
		if i == 3 {
			list = append(list, fmt.Sprintf("%d more", len(holders)-i))
			break
		}
		list = append(list, h.About)
	}
	return strings.Join(list, "; ")
}
