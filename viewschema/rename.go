package viewschema

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// part is something that belongs to a table and whose name is made of the table's.
type part struct{ Kind, Name, Schema string }

// rename renames a table, and with it what is named after it: indexes (a constraint follows its index), other constraints,
// owned sequences and extended statistics. renamed says what becomes of names that the table's SQL files chose; the others
// are PostgreSQL's own and begin with the table's name. All are locked with their table.
func (s *Schema) rename(ctx context.Context, tx pgx.Tx, from, to string, renamed map[string]string) error {
	parts, err := s.parts(ctx, tx, from)
	if err != nil {
		return err
	}
	old, batch := pg.Table(s.def.Schema, from), &pgx.Batch{}
	for _, p := range parts {
		name, ok := renamed[p.Name]
		if !ok {
			name = partName(p.Name, from, to)
		}
		if name == p.Name {
			continue
		}
		was, is := pgx.Identifier{p.Name}.Sanitize(), pgx.Identifier{name}.Sanitize()
		if p.Kind == "constraint" {
			batch.Queue(fmt.Sprintf("alter table %s rename constraint %s to %s", old, was, is))
		} else {
			batch.Queue(fmt.Sprintf("alter %s %s rename to %s", p.Kind, pg.Table(p.Schema, p.Name), is))
		}
	}
	batch.Queue(fmt.Sprintf("alter table %s rename to %s", old, pgx.Identifier{to}.Sanitize()))
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("renaming %s to %s: %w", from, to, err)
	}
	return nil
}

// parts lists what is named after a table.
func (s *Schema) parts(ctx context.Context, tx pgx.Tx, table string) ([]part, error) {
	parts, err := pg.Collect(ctx, tx, pgx.RowToStructByPos[part], `
		select 'index', c.relname::text, n.nspname::text
		from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where i.indrelid = $1::text::regclass
		union all
		select 'constraint', conname::text, ''
		from pg_catalog.pg_constraint
		where conrelid = $1::text::regclass and contype in ('c', 'f', 'n') and coninhcount = 0
		union all
		select 'sequence', c.relname::text, n.nspname::text
		from pg_catalog.pg_depend d join pg_catalog.pg_class c on c.oid = d.objid and c.relkind = 'S' join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
		  and d.refobjid = $1::text::regclass and d.deptype in ('a', 'i')
		union all
		select 'statistics', stxname::text, n.nspname::text
		from pg_catalog.pg_statistic_ext join pg_catalog.pg_namespace n on n.oid = stxnamespace
		where stxrelid = $1::text::regclass
		order by 1, 2`, pg.Table(s.def.Schema, table))
	if err != nil {
		return nil, fmt.Errorf("listing what is named after %s: %w", table, err)
	}
	return parts, nil
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

// advanceSequences sets the sequences that belong to columns of the table past the columns' values: rows that a projector
// numbers itself do not draw from them, and the first that the application lets the database number would collide. Without
// an index on such a column this reads the table. Numbers that a sequence of the former table has given are not given again: others may
// have kept them. former is its name with the schema, empty if there was none.
func (s *Schema) advanceSequences(ctx context.Context, tx pgx.Tx, table, former string) error {
	return runEach(ctx, tx, "advancing the sequences of "+table, `
		select pg_catalog.format('select setval(%1$s, highest) from (select greatest((select max(%2$I) from %3$s), %5$s) as highest) t
				where highest > coalesce(pg_sequence_last_value(%1$s), 0) and highest <= %4$s',
			q.seqrelid::oid, a.attname, $1::text, q.seqmax, (
				select coalesce(max(pg_sequence_last_value(p.seqrelid)), 0)
				from pg_catalog.pg_depend o
				join pg_catalog.pg_sequence p on p.seqrelid = o.objid and p.seqincrement > 0
				join pg_catalog.pg_attribute b on b.attrelid = o.refobjid and b.attnum = o.refobjsubid
				where o.classid = 'pg_class'::regclass and o.refclassid = 'pg_class'::regclass and o.refobjid = to_regclass(nullif($2, '')) and o.deptype in ('a', 'i')
				  and b.attname = a.attname))
		from pg_catalog.pg_depend d
		join pg_catalog.pg_sequence q on q.seqrelid = d.objid
		join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
		where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
		  and d.refobjid = $1::text::regclass and d.deptype in ('a', 'i')
		  and q.seqincrement > 0 and a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)`, pg.Table(s.def.Schema, table), former)
}

// revokeAll takes away what default privileges, or the table's file, have granted on it and its sequences: the rights on a table that replaces
// another one are the other one's, and nobody may read it before the cutover who may not read the live one. What others have granted in their turn goes along.
func (s *Schema) revokeAll(ctx context.Context, tx pgx.Tx, table string) error {
	return runEach(ctx, tx, "taking the rights on "+table+" away", `
		select distinct pg_catalog.format('revoke all on %s from %s cascade', $1::text,
			case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end)
		from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
		where c.oid = $1::text::regclass and a.grantee <> c.relowner
		union
		select pg_catalog.format('revoke all (%I) on %s from %s cascade', t.attname, $1::text,
			case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end)
		from pg_catalog.pg_class c, pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) a
		where c.oid = $1::text::regclass and t.attrelid = c.oid and not t.attisdropped and a.grantee <> c.relowner
		union
		select pg_catalog.format('revoke all on sequence %s from %s cascade', c.oid::regclass,
			case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end)
		from pg_catalog.pg_depend d join pg_catalog.pg_class c on c.oid = d.objid and c.relkind = 'S', pg_catalog.aclexplode(c.relacl) a
		where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = $1::text::regclass and d.deptype in ('a', 'i')
		  and a.grantee <> c.relowner`, pg.Table(s.def.Schema, table))
}

// carryRights gives table the owner and the grants of another, on the table and on the columns that both have, and takes from the owner
// what it has taken from itself there.
func (s *Schema) carryRights(ctx context.Context, tx pgx.Tx, from, to string) error {
	return runEach(ctx, tx, "carrying the rights on "+from+" over", `
		select pg_catalog.format('alter table %s owner to %I', $2::text, pg_catalog.pg_get_userbyid(c.relowner))
		from pg_catalog.pg_class c
		where c.oid = $1::text::regclass and c.relowner <> (select relowner from pg_catalog.pg_class where oid = $2::text::regclass)
		union all
		select pg_catalog.format('revoke %s on %s from %I', a.privilege_type, $2::text, pg_catalog.pg_get_userbyid(c.relowner))
		from pg_catalog.pg_class c, pg_catalog.aclexplode(pg_catalog.acldefault('r', c.relowner)) a
		where c.oid = $1::text::regclass and c.relacl is not null
		  and not exists (select from pg_catalog.aclexplode(c.relacl) h where h.grantee = c.relowner and h.privilege_type = a.privilege_type)
		union all
		select pg_catalog.format('grant %s%s on %s to %s%s', a.privilege_type, coalesce(' (' || pg_catalog.quote_ident(a.attname) || ')', ''), $2::text,
			case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end,
			case when a.is_grantable then ' with grant option' else '' end)
		from (
			select null::name as attname, t.*, c.relowner
			from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) t
			where c.oid = $1::text::regclass
			union all
			select o.attname, t.*, c.relowner
			from pg_catalog.pg_class c
			join pg_catalog.pg_attribute o on o.attrelid = c.oid and o.attnum > 0 and not o.attisdropped
			join pg_catalog.pg_attribute n on n.attrelid = $2::text::regclass and n.attname = o.attname and not n.attisdropped,
				pg_catalog.aclexplode(o.attacl) t
			where c.oid = $1::text::regclass
		) a
		where a.grantee <> a.relowner`,
		pg.Table(s.def.Schema, from), pg.Table(s.def.Schema, to))
}

// runEach runs the statements that a query yields. what says what for, in errors.
func runEach(ctx context.Context, tx pgx.Tx, what, query string, args ...any) error {
	statements, err := pg.Collect(ctx, tx, pgx.RowTo[string], query, args...)
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
