package viewschema

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/internal/pg"
)

// succession is what becomes of a name in a cutover: that of a view table, or of a partition of one. The table that has it is archived, and
// another one gets it, with all that hangs on the first.
type succession struct {
	of       TableChange // the view table
	schema   string      // a partition may be in another one than its table
	name     string
	parent   string // of a partition that is live: what it is a partition of, in SQL
	live     bool   // somebody has the name; else it is new
	made     bool   // the new view table is there
	built    string // who gets it is called so until the cutover; empty: nobody does, or it is not made yet
	archived string // who had it is called so afterwards
}

// root says whether it is the name of the view table itself, and not of a partition.
func (p succession) root() bool { return p.name == p.of.Table && p.parent == "" }

// given says whether what hangs on the table that has the name goes to another one. It does not from a partition for which there is no
// other, which is archived with its table; as long as the new table is not there, that is not known.
func (p succession) given() bool {
	return p.of.Kind == projector.KindReplay && (p.built != "" || !p.made)
}

// relation is the name in SQL.
func (p succession) relation() string { return pg.Table(p.schema, p.name) }

// builtRelation is in SQL what is to get the name; empty: nothing is.
func (p succession) builtRelation() string { return p.in(p.built) }

// archivedRelation is in SQL what has had the name, after the cutover.
func (p succession) archivedRelation() string { return p.in(p.archived) }

func (p succession) in(name string) string {
	if name == "" {
		return ""
	}
	return pg.Table(p.schema, name)
}

// successions lists those of the tables that the plan replaces or drops, each table's before those of its partitions. Partitions are
// those that the catalog has now, whoever has made them. Before the new tables are made, nobody gets a partition's name.
func (s *Schema) successions(ctx context.Context, q pg.Querier, plan *Plan) (list []succession, err error) {
	var roots []string
	for _, t := range plan.Tables {
		roots = append(roots, t.Table)
		if t.Built != "" {
			roots = append(roots, t.Built)
		}
	}
	parts, err := s.partitions(ctx, q, roots)
	if err != nil {
		return nil, err
	}
	for _, t := range plan.Tables {
		if t.Kind == projector.KindAlter {
			continue
		}
		_, live := parts[t.Table]
		_, made := parts[t.Built]
		list = append(list, succession{of: t, schema: s.def.Schema, name: t.Table, live: live, made: made, built: t.Built, archived: t.Archived})
		first := len(list)
		for _, p := range parts[t.Table] {
			archived := partName(p.Name, t.Table, cmp.Or(t.Archived, t.Table))
			list = append(list, succession{of: t, schema: p.Schema, name: p.Name, parent: pg.Table(p.ParentSchema, p.Parent), live: true, made: made, archived: archived})
		}
		plain := s.plainNames(t)
		for _, p := range parts[t.Built] {
			name := newName(p.Name, t.Built, t.Table, plain)
			i := slices.IndexFunc(list[first:], func(o succession) bool { return o.schema == p.Schema && o.name == name })
			if i < 0 {
				list = append(list, succession{of: t, schema: p.Schema, name: name, made: made, built: p.Name})
				continue
			}
			list[first+i].built = p.Name
		}
	}
	return list, nil
}

// tablePartition is a partition, at whatever level, of a table of the view schema, Root.
type tablePartition struct{ Root, Schema, Name, ParentSchema, Parent string }

// partitions lists the partitions of those tables that exist, by table.
func (s *Schema) partitions(ctx context.Context, q pg.Querier, tables []string) (map[string][]tablePartition, error) {
	list, err := pg.Collect(ctx, q, pgx.RowToStructByPos[tablePartition], `
		select r.name, n.nspname::text, c.relname::text, coalesce(pn.nspname::text, ''), coalesce(p.relname::text, '')
		from pg_catalog.unnest($2::text[]) r (name)
		cross join lateral (`+pg.Partitions("to_regclass(pg_catalog.format('%I.%I', $1::text, r.name))")+`) tree
		join pg_catalog.pg_class c on c.oid = tree.id
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		left join pg_catalog.pg_inherits i on i.inhrelid = c.oid
		left join pg_catalog.pg_class p on p.oid = i.inhparent
		left join pg_catalog.pg_namespace pn on pn.oid = p.relnamespace
		order by 1, 2, 3`, pg.Once, s.def.Schema, tables)
	if err != nil {
		return nil, fmt.Errorf("listing the partitions of the view tables: %w", err)
	}
	byTable := map[string][]tablePartition{}
	for _, p := range list {
		family := byTable[p.Root]
		if p.Schema != s.def.Schema || p.Name != p.Root { // else it is the table, which may be a part of something else by itself
			family = append(family, p)
		}
		byTable[p.Root] = family
	}
	return byTable, nil
}

// plainNames says what becomes of the names that the SQL files of a new table have chosen.
func (s *Schema) plainNames(t TableChange) map[string]string {
	if t.Built == "" {
		return nil
	}
	suffix := t.Built[len(t.Table):]
	plain := s.def.files[t.Table+".sql"].names(suffix)
	if f, ok := s.def.files[t.Table+".indexes.sql"]; ok {
		maps.Copy(plain, f.names(suffix))
	}
	return plain
}

// addTaken refuses partitions that cannot get the names that the cutover has for them: somebody else has these.
func addTaken(ctx context.Context, q pg.Querier, successions []succession, r *refusal) error {
	wanted := map[string]string{} // relation → who needs the name
	for _, p := range successions {
		switch {
		case p.root():
		case !p.live:
			wanted[p.relation()] = "new partition " + p.built
		case p.archived != p.name:
			wanted[p.archivedRelation()] = "the archived partition " + p.name
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	taken, err := pg.Collect(ctx, q, pgx.RowTo[string], "select r from pg_catalog.unnest($1::text[]) r where to_regclass(r) is not null order by 1",
		pg.Once, slices.Collect(maps.Keys(wanted)))
	if err != nil {
		return fmt.Errorf("looking for the names of the partitions: %w", err)
	}
	for _, name := range taken {
		r.add("%s needs the name %s in the cutover, which exists, and is no partition of a view table; rename or drop it", wanted[name], name)
	}
	return nil
}

// lackingPartitions tells which partitions of the live tables the new ones will be without: those that were added to a table since its file
// was written. Where the new table is partitioned in another way, or has one with the same bounds, there is nothing to tell but what was
// granted on the old one. Nor is there of a partition whose own partitioned table is lacking. built says whether the new tables are filled.
func (s *Schema) lackingPartitions(ctx context.Context, tx pgx.Tx, successions []succession, built bool) (notes []string, err error) {
	for _, p := range successions {
		parent := slices.IndexFunc(successions, func(o succession) bool { return o.relation() == p.parent && o.built != "" })
		if p.given() || !p.live || parent < 0 || p.of.Kind != projector.KindReplay {
			continue
		}
		create := ""
		if built {
			create = pg.Table(p.schema, newName(p.name, p.of.Table, p.of.Built, nil))
		}
		found, err := pg.Collect(ctx, tx, pgx.RowTo[string], lackingPartition, pg.Once, p.relation(), successions[parent].builtRelation(), p.of.Table, create)
		if err != nil {
			return nil, fmt.Errorf("comparing the partitions of %s with those of the new table: %w", p.of.Table, err)
		}
		notes = append(notes, found...)
	}
	return notes, nil
}

// lackingPartition is given a partition, the new table that would have to have it, the view table's name, and what to call the new partition,
// if it is to be made by hand.
const lackingPartition = `
select pg_catalog.format('partition %s of %s, %s, is not of the new table; if it is needed, add to %s.sql: create table %I%%SUFFIX%% partition of %I%%SUFFIX%% %3$s',
		c.oid::regclass, h.inhparent::regclass, b.bound, $3::text, c.relname, parent.relname)
	|| case when $4::text <> '' then pg_catalog.format('; and as that is built already, type: create table %s partition of %s %s', $4::text, $2::text, b.bound) else '' end
from pg_catalog.pg_class c
join pg_catalog.pg_inherits h on h.inhrelid = c.oid
join pg_catalog.pg_class parent on parent.oid = h.inhparent
cross join lateral pg_get_expr(c.relpartbound, c.oid) b (bound)
where c.oid = $1::text::regclass
  and pg_catalog.pg_get_partkeydef(to_regclass($2)) = pg_catalog.pg_get_partkeydef(h.inhparent)
  and not exists (
	select
	from pg_catalog.pg_inherits o join pg_catalog.pg_class n on n.oid = o.inhrelid
	where o.inhparent = to_regclass($2) and pg_get_expr(n.relpartbound, n.oid) = b.bound)
union all
select pg_catalog.format('grants on partition %s of %s go to no partition of the new table, and a rollback takes them away; if they are needed, grant on the table',
	c.oid::regclass, h.inhparent::regclass)
from pg_catalog.pg_class c
join pg_catalog.pg_inherits h on h.inhrelid = c.oid
where c.oid = $1::text::regclass
  and exists (select from pg_catalog.aclexplode(c.relacl) a where a.grantee <> c.relowner)`
