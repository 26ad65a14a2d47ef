package viewschema

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// part is a partition of a table, or something that belongs to it or to a partition, and whose name is made of the table's.
type part struct {
	Kind, Name, Schema string
	Of                 uint32 // the table or the partition whose it is; of a partition, itself
}

// rename renames a table, and with it what is named after it: partitions, indexes (a constraint follows its index), other constraints,
// owned sequences and extended statistics. renamed says what becomes of names that the table's SQL files chose; the others
// are PostgreSQL's own and begin with the table's name, or the partition's. All are locked with their table.
func (s *Schema) rename(ctx context.Context, tx pgx.Tx, from, to string, renamed map[string]string) error {
	parts, err := s.parts(ctx, tx, from)
	if err != nil {
		return err
	}
	batch, tables := &pgx.Batch{}, map[uint32]part{}
	for _, p := range parts {
		if p.Kind == "table" {
			tables[p.Of] = p
		}
	}
	for _, p := range parts {
		name, of := newName(p.Name, from, to, renamed), tables[p.Of]
		if _, chosen := renamed[p.Name]; !chosen && p.Kind != "table" { // after its partition, or else after the table
			is := newName(of.Name, from, to, renamed)
			if own := partName(p.Name, of.Name, is); own != p.Name && strings.HasPrefix(own, is) { // cut off, it could be another partition's, too
				name = own
			}
		}
		if name == p.Name {
			continue
		}
		is := pgx.Identifier{name}.Sanitize()
		if p.Kind == "constraint" { // before its table, which comes later in the list
			batch.Queue(fmt.Sprintf("alter table %s rename constraint %s to %s", pg.Table(of.Schema, of.Name), pgx.Identifier{p.Name}.Sanitize(), is))
		} else {
			batch.Queue(fmt.Sprintf("alter %s %s rename to %s", p.Kind, pg.Table(p.Schema, p.Name), is))
		}
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("renaming %s to %s: %w", from, to, err)
	}
	return nil
}

// parts lists a table and its partitions, and before them what is named after them. Checks that partitions have from their table are
// renamed with it; foreign keys are not. Constraints of distributed tables keep their names, which Citus refuses to change; only those of
// indexes have to differ from those of other tables, and follow their indexes.
func (s *Schema) parts(ctx context.Context, tx pgx.Tx, table string) ([]part, error) {
	constraints := "(contype = 'f' or contype in ('c', 'n') and coninhcount = 0)"
	citus, err := pg.HasCitus(ctx, tx)
	if err != nil {
		return nil, err
	}
	if citus {
		constraints += " and not exists (select from pg_catalog.pg_dist_partition d where d.logicalrelid::oid = conrelid)"
	}
	parts, err := pg.Collect(ctx, tx, pgx.RowToStructByPos[part], `
		with tree as (`+pg.Partitions("$1::text::regclass")+`)
		select 'index', c.relname::text, n.nspname::text, i.indrelid
		from tree join pg_catalog.pg_index i on i.indrelid = id
		join pg_catalog.pg_class c on c.oid = i.indexrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		union all
		select 'constraint', conname::text, '', conrelid
		from tree join pg_catalog.pg_constraint on conrelid = id
		where `+constraints+`
		union all
		select 'sequence', c.relname::text, n.nspname::text, d.refobjid
		from tree join pg_catalog.pg_depend d on d.refobjid = id
		join pg_catalog.pg_class c on c.oid = d.objid and c.relkind = 'S' join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
		union all
		select 'statistics', stxname::text, n.nspname::text, stxrelid
		from tree join pg_catalog.pg_statistic_ext on stxrelid = id join pg_catalog.pg_namespace n on n.oid = stxnamespace
		union all
		select 'table', c.relname::text, n.nspname::text, c.oid
		from tree join pg_catalog.pg_class c on c.oid = id join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		order by 1, 3, 2`, pg.Once, pg.Table(s.def.Schema, table))
	if err != nil {
		return nil, fmt.Errorf("listing what is named after %s: %w", table, err)
	}
	return parts, nil
}

// newName returns the name that a table or a partition gets when the table is renamed.
func newName(name, from, to string, renamed map[string]string) string {
	if chosen, ok := renamed[name]; ok {
		return chosen
	}
	if name == from {
		return to
	}
	return partName(name, from, to)
}

// partName returns the name of a part of a table that is renamed: what follows the table's name stays. A part with a name
// of its own gets the suffix that the table gets, or loses it.
func partName(name, from, to string) string {
	if rest, ok := strings.CutPrefix(name, from); ok && (rest == "" || rest[0] == '_') {
		return fit(to, rest)
	}
	if suffix, ok := strings.CutPrefix(to, from); ok {
		return fit(name, suffix)
	}
	if suffix, ok := strings.CutPrefix(from, to); ok {
		return strings.TrimSuffix(name, suffix)
	}
	return name
}

// fit joins name and rest in the bytes that a name may have, as PostgreSQL does: at the cost of the first.
func fit(name, rest string) string {
	return name[:min(len(name), max(0, maxName-len(rest)))] + rest
}

// advanceSequences sets the sequences that belong to columns of the tables that have got these names past the columns' values: rows that
// a projector numbers itself do not draw from them, and the first that the application lets the database number would collide. Without
// an index on such a column this reads the table. Numbers that a sequence of the former table has given are not given again: others may
// have kept them.
func (s *Schema) advanceSequences(ctx context.Context, tx pgx.Tx, successions []succession) error {
	var names, former []string
	for _, p := range successions {
		names = append(names, p.relation())
		if p.live {
			former = append(former, p.archivedRelation())
		} else {
			former = append(former, "")
		}
	}
	return runEach(ctx, tx, "advancing the sequences", `
		select pg_catalog.format('select setval(%1$s, highest) from (select greatest((select max(%2$I) from %3$s), %5$s) as highest) t
				where highest > coalesce(pg_sequence_last_value(%1$s), 0) and highest <= %4$s',
			q.seqrelid::oid, a.attname, t.name, q.seqmax, (
				select coalesce(max(pg_sequence_last_value(p.seqrelid)), 0)
				from pg_catalog.pg_depend o
				join pg_catalog.pg_sequence p on p.seqrelid = o.objid and p.seqincrement > 0
				join pg_catalog.pg_attribute b on b.attrelid = o.refobjid and b.attnum = o.refobjsubid
				where o.classid = 'pg_class'::regclass and o.refclassid = 'pg_class'::regclass and o.refobjid = to_regclass(nullif(t.former, ''))
				  and o.deptype in ('a', 'i') and b.attname = a.attname))
		from unnest($1::text[], $2::text[]) t (name, former)
		join pg_catalog.pg_depend d on d.refobjid = t.name::regclass
		join pg_catalog.pg_sequence q on q.seqrelid = d.objid
		join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
		where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
		  and q.seqincrement > 0 and a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)`, names, former)
}

// revokeAll takes away what default privileges, or the table's file, have granted on it and its sequences: the rights on a table that replaces
// another one are the other one's, and nobody may read it before the cutover who may not read the live one. The
// same goes for its partitions. What others have granted in their turn goes along.
func (s *Schema) revokeAll(ctx context.Context, tx pgx.Tx, table string) error {
	return runEach(ctx, tx, "taking the rights on "+table+" away", `
		with tree as (`+pg.Partitions("$1::text::regclass")+`)
		select distinct pg_catalog.format('revoke all on %s from %s cascade', c.oid::regclass,
			case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end)
		from tree join pg_catalog.pg_class c on c.oid = id, pg_catalog.aclexplode(c.relacl) a
		where a.grantee <> c.relowner
		union
		select pg_catalog.format('revoke all (%I) on %s from %s cascade', t.attname, c.oid::regclass,
			case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end)
		from tree join pg_catalog.pg_class c on c.oid = id join pg_catalog.pg_attribute t on t.attrelid = c.oid, pg_catalog.aclexplode(t.attacl) a
		where not t.attisdropped and a.grantee <> c.relowner
		union
		select pg_catalog.format('revoke all on sequence %s from %s cascade', c.oid::regclass,
			case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end)
		from tree join pg_catalog.pg_depend d on d.refobjid = id
		join pg_catalog.pg_class c on c.oid = d.objid and c.relkind = 'S', pg_catalog.aclexplode(c.relacl) a
		where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
		  and a.grantee <> c.relowner`, pg.Table(s.def.Schema, table))
}

// carryRights gives the tables that have got these names the owner and the grants of those that had them, on the tables and on the
// columns that both have, and takes from the owner what it has taken from itself there. A partition whose name nobody had gets the owner of its former
// table: nobody has rights on it but through its table.
func (s *Schema) carryRights(ctx context.Context, tx pgx.Tx, successions []succession) error {
	var from, to []string
	var had []bool
	for _, p := range successions {
		former := p.archivedRelation()
		if !p.live {
			former = pg.Table(s.def.Schema, p.of.Archived)
		}
		from, to, had = append(from, former), append(to, p.relation()), append(had, p.live)
	}
	return runEach(ctx, tx, "carrying rights over", `
		with t as (
			select t.name, t.had, c.oid, c.relowner, c.relacl, n.oid as new, n.relowner as new_owner
			from unnest($1::text[], $2::text[], $3::bool[]) t (former, name, had)
			join pg_catalog.pg_class c on c.oid = t.former::regclass
			join pg_catalog.pg_class n on n.oid = t.name::regclass
		)
		select pg_catalog.format('alter table %s owner to %I', name, pg_catalog.pg_get_userbyid(relowner))
		from t
		where relowner <> new_owner
		union all
		select pg_catalog.format('revoke %s on %s from %I', a.privilege_type, name, pg_catalog.pg_get_userbyid(relowner))
		from t, pg_catalog.aclexplode(pg_catalog.acldefault('r', relowner)) a
		where had and relacl is not null
		  and not exists (select from pg_catalog.aclexplode(relacl) h where h.grantee = relowner and h.privilege_type = a.privilege_type)
		union all
		select pg_catalog.format('grant %s%s on %s to %s%s', a.privilege_type, coalesce(' (' || pg_catalog.quote_ident(a.attname) || ')', ''), a.name,
			case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end,
			case when a.is_grantable then ' with grant option' else '' end)
		from (
			select null::name as attname, x.*, t.relowner, t.name
			from t, pg_catalog.aclexplode(t.relacl) x
			where had
			union all
			select o.attname, x.*, t.relowner, t.name
			from t
			join pg_catalog.pg_attribute o on o.attrelid = t.oid and o.attnum > 0 and not o.attisdropped
			join pg_catalog.pg_attribute n on n.attrelid = t.new and n.attname = o.attname and not n.attisdropped,
				pg_catalog.aclexplode(o.attacl) x
			where had
		) a
		where a.grantee <> a.relowner`, from, to, had)
}

// runEach runs the statements that a query yields. what says what for, in errors.
func runEach(ctx context.Context, tx pgx.Tx, what, query string, args ...any) error {
	statements, err := pg.Collect(ctx, tx, pgx.RowTo[string], query, append([]any{pg.Once}, args...)...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %s: %w", what, sql, err)
		}
	}
	return nil
}
