package eventstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Citus keeps the rows of a distributed table in shards, tables of their own on the servers of a cluster, its nodes. To those who read,
// write and lock it, it is a table like any other on each node, and nearly all of this package takes it for one. What differs is here:
//
//   - Who writes through another node holds locks there and on the shards' nodes, of which pg_locks of this node tells nothing.
//   - A transaction on several nodes commits in two phases, and its locks on this node can be gone while a shard's part of it is still
//     prepared, and invisible: after a crash, until Citus recovers it. The prepared part holds a lock on the shard.
//   - A node draws from its part of a sequence: the number of its group, shifted by 48 bits, and on. Those of the coordinator's group, 0,
//     are below all others. Where another node has drawn, the highest position is above what the sequence here has given out, which
//     distrust finds, like any other number from elsewhere.
//   - Transaction ids are a node's own.
//   - The planner does not know how many rows there are.

// distributed says whether Citus distributes the table.
func distributed(ctx context.Context, q pg.Querier, table uint32) (is bool, err error) {
	if is, err = pg.HasCitus(ctx, q); err != nil || !is {
		return false, err
	}
	err = q.QueryRow(ctx, "select exists (select from pg_catalog.pg_dist_partition where logicalrelid::oid = $1)", table).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("looking whether the event table is distributed: %w", err)
	}
	return is, nil
}

// clusterHolders lists the transactions that hold one of the modes on the event table or on a shard of it, on any node of the cluster,
// our own apart, and the nodes that do not answer. A transaction is known by its node and its virtual transaction there: global_pid is
// that of a session, which goes on to its next transaction, and prepared ones have none. Names of relations are all that nodes have in
// common; they are printed with a schema or without, as the search path of the session that asks each node has it.
var clusterHolders = fmt.Sprintf(`
with locks as materialized (
	select * from pg_catalog.citus_locks
), shards as (
	select n.nspname, pg_catalog.shard_name(s.logicalrelid, s.shardid) as name
	from (%s) tree
	join pg_catalog.pg_dist_shard s on s.logicalrelid::oid = tree.id
	join pg_catalog.pg_class c on c.oid = tree.id
	join pg_catalog.pg_namespace n on n.oid = c.relnamespace
), bare (nspname, name) as (
	select nspname,
		case when pg_catalog.starts_with(name, pg_catalog.quote_ident(nspname) || '.')
			then pg_catalog.substr(name, pg_catalog.length(pg_catalog.quote_ident(nspname)) + 2)
			else name end
	from shards
	union
	select n.nspname, pg_catalog.quote_ident(c.relname)
	from (%[1]s) tree
	join pg_catalog.pg_class c on c.oid = tree.id
	join pg_catalog.pg_namespace n on n.oid = c.relnamespace
), held as (
	select distinct nodeid, virtualtransaction, pid
	from locks
	where locktype = 'relation'
	  and granted
	  and mode = any ($2)
	  and global_pid is distinct from pg_catalog.citus_backend_gpid()
	  and relation_name in (select name from bare union select pg_catalog.quote_ident(nspname) || '.' || name from bare)
)
select pg_catalog.format('node %%s: %%s', h.nodeid, h.virtualtransaction),
	pg_catalog.format('%%s on node %%s', coalesce('pid ' || h.pid, 'prepared transaction ' || h.virtualtransaction),
		coalesce(n.nodename || ':' || n.nodeport, h.nodeid::text))
from held h left join pg_catalog.pg_dist_node n on n.nodeid = h.nodeid
union all
select '', n.nodename || ':' || n.nodeport
from pg_catalog.pg_dist_node n
where n.isactive and n.noderole = 'primary' and n.nodecluster = current_setting('citus.cluster_name')
  and not exists (select from locks l where l.nodeid = n.nodeid) -- who asks it holds locks there
order by 1, 2`, pg.Tree("$1"))

// holders lists the transactions that hold one of the modes on one of the relations or a table below it, and if the event table is distributed, on
// any node of the cluster. If a node does not answer, that cannot be known: ErrUnsettled.
func (r *Reader) holders(ctx context.Context, db pg.Querier, relations []uint32, modes ...string) ([]pg.Holder, error) {
	list, err := pg.Holders(ctx, db, relations, modes...)
	if err != nil || !r.distributed {
		return list, err
	}
	elsewhere, err := r.inCluster(ctx, db, modes...)
	return append(list, elsewhere...), err
}

func (r *Reader) inCluster(ctx context.Context, db pg.Querier, modes ...string) (list []pg.Holder, err error) {
	found, err := pg.Collect(ctx, db, pgx.RowToStructByPos[pg.Holder], clusterHolders, r.base.table, modes)
	if err != nil {
		return nil, fmt.Errorf("looking for who holds locks in the cluster: %w", err)
	}
	var silent []string
	for _, h := range found {
		if h.Transaction == "" {
			silent = append(silent, h.About)
		} else {
			list = append(list, h)
		}
	}
	if len(silent) > 0 {
		return nil, fmt.Errorf("%w: who writes through node %s cannot be known, which does not answer", ErrUnsettled, strings.Join(silent, ", "))
	}
	return list, nil
}

// checkHeld is for a transaction that holds off writers: no part of another one may be left on a node. The lock keeps out who writes through any
// node, but not a part of a transaction that is prepared there: what it has written becomes visible when it is committed.
func (r *Reader) checkHeld(ctx context.Context, tx pgx.Tx) error {
	if !r.distributed {
		return nil
	}
	left, err := r.inCluster(ctx, tx, writeModes...)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%w: %s", ErrUnsettled, pg.Describe(left))
	}
	return err
}

// clusterSizes is given the event table. A shard that was never analyzed has no rows.
var clusterSizes = `
with leaves as (
	select c.oid::regclass as name from (` + pg.Tree("$1") + `) tree join pg_catalog.pg_class c on c.oid = tree.id and c.relkind <> 'p'
)
select coalesce((
		select sum(greatest(s.result::float8, 0))
		from leaves l
		cross join lateral pg_catalog.run_command_on_shards(l.name, 'select reltuples from pg_catalog.pg_class where oid = ''%s''::regclass') s
		where s.success), 0)::int8,
	coalesce((select sum(pg_catalog.citus_relation_size(l.name)) from leaves l), 0)::int8`

// clusterSize asks the nodes for the rows of the event table, as of when its shards were last analyzed, and for its bytes.
func (r *Reader) clusterSize(ctx context.Context, q pg.Querier) (rows, bytes int64, err error) {
	if err = q.QueryRow(ctx, clusterSizes, r.base.table).Scan(&rows, &bytes); err != nil {
		return 0, 0, fmt.Errorf("asking the cluster for the size of %s: %w", r.relation, err)
	}
	return rows, bytes, nil
}
