package eventtable

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
)

// table is what the catalog says about the relation of the events.
type table struct {
	oid          uint32
	schema, name string
	relkind      string // r table, p partitioned table, v view
	owner        string
	owned        bool // by our role itself
	ours         bool // our role may do what the owner may
	mayCreate    bool // our role may create indexes and sequences in the schema
	standby      bool
	bytes        int64   // of the table and its partitions, without indexes
	rows         float64 // reltuples: below 0 if it was never vacuumed or analyzed
	analyzed     bool
	changed      int64 // rows changed since it was analyzed
	columns      map[string]column
	indexes      []index
	checks       map[string]bool // names of check constraints, and whether they are validated
}

type column struct {
	Name     string
	Type     string // internal name: int8, varchar
	NotNull  bool
	Fallback string // default, as SQL; empty: none
}

type index struct {
	Name       string
	Keys       []string // columns; an expression is empty
	Unique     bool
	Valid      bool
	Primary    bool
	Partial    bool
	Plain      bool   // a btree with default collations and operators, checked at once: one that can become a constraint
	Constraint string // that owns it
	Building   int32  // pid of who builds it at this moment
}

// relations are the names under which the table is looked for, if the mapping names none. A table of Axon 2 is none that the
// preset can read yet.
func relations(ctx context.Context, q pg.Querier, m eventstore.Mapping) ([]string, error) {
	switch {
	case m.Relation != "":
		return []string{m.Relation}, nil
	case m.Preset == "axon":
		return []string{"domain_event_entry", "domainevententry", `"DomainEventEntry"`}, nil
	case m.Preset != "":
		r, err := eventstore.Open(ctx, q, m)
		if err != nil {
			return nil, err
		}
		return []string{r.Relation()}, nil
	}
	return []string{"events"}, nil
}

// look reads the catalog.
func look(ctx context.Context, q pg.Querier, m eventstore.Mapping) (*table, error) {
	names, err := relations(ctx, q, m)
	if err != nil {
		return nil, err
	}
	t := &table{columns: map[string]column{}, checks: map[string]bool{}}
	err = q.QueryRow(ctx, `
		select c.oid, n.nspname, c.relname, c.relkind::text, pg_catalog.pg_get_userbyid(c.relowner), c.relowner = current_user::regrole,
			pg_catalog.pg_has_role(c.relowner, 'usage'), pg_catalog.has_schema_privilege(n.oid, 'create'), pg_catalog.pg_is_in_recovery(),
			(select coalesce(sum(pg_catalog.pg_relation_size(id)), 0)::int8 from (`+pg.Tree("c.oid")+`) tree),
			c.reltuples, coalesce(s.last_analyze, s.last_autoanalyze) is not null, coalesce(s.n_mod_since_analyze, 0)
		from pg_catalog.unnest($1::text[]) with ordinality as named (name, n)
		join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(named.name)
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		left join pg_catalog.pg_stat_all_tables s on s.relid = c.oid
		order by named.n
		limit 1`, names).
		Scan(&t.oid, &t.schema, &t.name, &t.relkind, &t.owner, &t.owned, &t.ours, &t.mayCreate, &t.standby,
			&t.bytes, &t.rows, &t.analyzed, &t.changed)
	if errors.Is(err, pgx.ErrNoRows) {
		var database, path string
		if err := q.QueryRow(ctx, "select current_database(), current_setting('search_path')").Scan(&database, &path); err != nil {
			return nil, fmt.Errorf("looking up event table %s: %w", names[0], err)
		}
		return nil, fmt.Errorf("%w: database %s has no relation %s that our role can see (search_path is %s); name it, with its schema, as the source's relation",
			eventstore.ErrMapping, database, names[0], path)
	}
	if err == nil {
		err = t.lookColumns(ctx, q)
	}
	if err == nil {
		t.indexes, err = indexesOf(ctx, q, t.oid)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up event table %s: %w", names[0], err)
	}
	return t, nil
}

func (t *table) lookColumns(ctx context.Context, q pg.Querier) error {
	columns, err := pg.Collect(ctx, q, pgx.RowToStructByPos[column], `
		select a.attname::text, t.typname::text, a.attnotnull, coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '')
		from pg_catalog.pg_attribute a
		join pg_catalog.pg_type t on t.oid = a.atttypid
		left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped`, t.oid)
	if err != nil {
		return err
	}
	for _, c := range columns {
		t.columns[c.Name] = c
	}
	rows, err := q.Query(ctx, "select conname::text, convalidated from pg_catalog.pg_constraint where conrelid = $1 and contype = 'c'", t.oid)
	if err != nil {
		return err
	}
	var name string
	var validated bool
	_, err = pgx.ForEachRow(rows, []any{&name, &validated}, func() error {
		t.checks[name] = validated
		return nil
	})
	return err
}

func indexesOf(ctx context.Context, q pg.Querier, relation uint32) ([]index, error) {
	return pg.Collect(ctx, q, pgx.RowToStructByPos[index], `
		select c.relname::text,
			array(
				select coalesce(a.attname::text, '')
				from pg_catalog.unnest(i.indkey::int2[]) with ordinality k (attnum, n)
				left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum and k.attnum > 0
				where k.n <= i.indnkeyatts
				order by k.n),
			i.indisunique, i.indisvalid, i.indisprimary, i.indpred is not null,
			m.amname = 'btree' and i.indimmediate and i.indnatts = i.indnkeyatts and not exists (
				select
				from unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[], i.indoption::int2[]) k (attnum, collation_oid, class, option)
				join pg_catalog.pg_opclass o on o.oid = k.class
				left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum and k.attnum > 0
				where a.attnum is null or a.attcollation <> k.collation_oid or not o.opcdefault or k.option <> 0),
			coalesce((select conname::text from pg_catalog.pg_constraint where conindid = i.indexrelid and contype in ('p', 'u', 'x')), ''),
			coalesce((select p.pid from pg_catalog.pg_stat_progress_create_index p where p.index_relid = i.indexrelid limit 1), 0)
		from pg_catalog.pg_index i
		join pg_catalog.pg_class c on c.oid = i.indexrelid
		join pg_catalog.pg_am m on m.oid = c.relam
		where i.indrelid = $1
		order by c.relname`, relation)
}

// relation returns the quoted and qualified name.
func (t *table) relation() string { return pg.Table(t.schema, t.name) }

func (t *table) lockSQL() string { return "lock table " + t.relation() + " in access exclusive mode" }

// named returns the index of that name, nil if there is none.
func (t *table) named(name string) *index {
	for i := range t.indexes {
		if t.indexes[i].Name == name {
			return &t.indexes[i]
		}
	}
	return nil
}

// uniqueOn returns an index that makes just these columns unique, in this order, and can become a constraint. The primary
// key's is left out.
func (t *table) uniqueOn(keys ...string) *index {
	for i := range t.indexes {
		if x := &t.indexes[i]; x.Unique && x.Valid && x.Plain && !x.Partial && !x.Primary && slices.Equal(x.Keys, keys) {
			return x
		}
	}
	return nil
}

func (t *table) primaryKey() (keys []string, constraint string) {
	for _, x := range t.indexes {
		if x.Primary {
			return x.Keys, x.Constraint
		}
	}
	return nil, ""
}

// covers says whether the index has both columns among its keys.
func (x *index) covers(a, b string) bool {
	return slices.Contains(x.Keys, a) && slices.Contains(x.Keys, b)
}

// object names an index, a sequence or a constraint after the table, as PostgreSQL does: what does not fit into 63 bytes is
// cut off the table's part.
func (t *table) object(rest string) string {
	const longest = 63
	name := t.name
	for len(name)+1+len(rest) > longest && name != "" {
		r := []rune(name)
		name = string(r[:len(r)-1])
	}
	return name + "_" + rest
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
