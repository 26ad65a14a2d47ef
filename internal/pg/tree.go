package pg

// Tree is a query, with the column id, for relations and all tables below them: partitions, their partitions, and tables that inherit.
// Who reads a table reads these, and who writes one of them may name and lock only it. relations is SQL that yields oids. Unlike
// pg_partition_tree it takes no lock on the tables: somebody may hold them for long, and is to be told of.
func Tree(relations string) string { return below(relations, "") }

// Partitions is Tree without tables that inherit: with a table, its partitions are renamed, dropped and emptied, and those are not.
func Partitions(relations string) string {
	return below(relations, " join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relispartition")
}

func below(relations, which string) string {
	return `with recursive tree (id) as (
		select ` + relations + `::oid
		union
		select i.inhrelid from tree t join pg_catalog.pg_inherits i on i.inhparent = t.id` + which + `
	)
	select id from tree`
}

// TableSize is SQL for the bytes of a relation, an oid, and its partitions, with their indexes and all that is stored apart.
func TableSize(relation string) string {
	return "(select coalesce(sum(pg_total_relation_size(id)), 0)::int8 from (" + Partitions(relation) + ") tree)"
}
