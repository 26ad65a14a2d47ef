package projections

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// sqlColumn is a column of a table as it is in the database now.
type sqlColumn struct {
	Name     string
	OID      uint32 // of the type, of a domain that of its base type
	Type     string // as SQL names it
	Kind     string // pg_type.typtype
	Category string // pg_type.typcategory
	Elem     uint32 // of an array
	ElemKind string
	NotNull  bool
	Filled   bool   // has a default or is an identity
	Computed bool   // generated always as
	Unique   bool   // a unique index may care for it
	Alone    bool   // a unique index has this column and no other
	Pairs    string // the numbers of columns each of which has a unique index together with this one, and no other
	Number   string // pg_attribute.attnum
	Declared uint32 // the type, or the domain
	Row      uint32 // the type of the table's rows
	Rows     uint32 // the type of an array of them
	TextOnly bool   // the type has no binary form that PostgreSQL reads
	Plain    bool   // a table without children, of which rows can be deleted with nothing else happening
}

// catalogQuery joins little, and takes no parameter but the text of a VALUES list, for %s: it is part of every transaction in which an
// application projects, and of each group of a catch-up, and takes ten times as long to plan as to run. PostgreSQL keeps the plan of a
// prepared statement without parameters, whatever plan_cache_mode says; see choose_custom_plan in plancache.c.
const catalogQuery = `
select r.number, a.attname::text, t.oid, format_type(t.oid, null), t.typtype::text, t.typcategory::text,
       t.typelem, coalesce((select e.typtype::text from pg_type e where e.oid = t.typelem), ''),
       a.attnotnull or t.typnotnull, a.atthasdef or a.attidentity <> '' or t.typdefault is not null, a.attgenerated <> '',
       exists (
         select from pg_index i
         where i.indrelid = a.attrelid and (i.indisunique or i.indisexclusion) and i.indimmediate
           and (a.attnum = any(i.indkey) or i.indexprs is not null or i.indpred is not null)
       ),
       exists (
         select from pg_index i
         where i.indrelid = a.attrelid and i.indisunique and i.indimmediate and i.indisvalid
           and i.indnkeyatts = 1 and i.indkey[0] = a.attnum and i.indpred is null
       ),
       coalesce((
         select string_agg(i.indkey[case when i.indkey[0] = a.attnum then 1 else 0 end]::text, ' ')
         from pg_index i
         where i.indrelid = a.attrelid and i.indisunique and i.indimmediate and i.indisvalid
           and i.indnkeyatts = 2 and a.attnum in (i.indkey[0], i.indkey[1]) and i.indpred is null
       ), ''),
       a.attnum::text,
       t.oid, (select c.reltype from pg_class c where c.oid = a.attrelid),
       (select r.typarray from pg_class c join pg_type r on r.oid = c.reltype where c.oid = a.attrelid),
       t.typreceive = 0,
       (
         select c.relkind = 'r' and not c.relhassubclass and not c.relrowsecurity
           and not exists (select from pg_rewrite w where w.ev_class = c.oid and w.ev_type = '4')
           and not exists (
             select from pg_trigger g
             where g.tgrelid = c.oid and g.tgtype & 8 <> 0
               and g.tgfoid not in ('pg_catalog."RI_FKey_noaction_del"'::regproc, 'pg_catalog."RI_FKey_restrict_del"'::regproc))
         from pg_class c where c.oid = a.attrelid
       )
from (values %s) r (name, number)
join pg_attribute a on a.attrelid = to_regclass(r.name)
join pg_type t on t.oid = a.atttypid
where a.attnum > 0 and not a.attisdropped
order by r.number, a.attnum`

// domainQuery follows a domain to its base type, which may be that of another domain.
const domainQuery = `
with recursive base as (
  select t.* from pg_type t where t.oid = $1
  union all
  select t.* from base b join pg_type t on t.oid = b.typbasetype where b.typtype = 'd'
)
select b.oid, format_type(b.oid, null), b.typtype::text, b.typcategory::text,
       b.typelem, coalesce((select e.typtype::text from pg_type e where e.oid = b.typelem), '')
from base b where b.typtype <> 'd'`

// readCatalog returns the columns of each relation, which are none if it does not exist. If it locks them, they have to exist, and stay as
// they are until the transaction ends. Otherwise somebody may change a type afterwards, and rows that are encoded for the old one go into
// a column of the new one: binary COPY sees nothing but their size.
func readCatalog(ctx context.Context, conn *pgx.Conn, relations []string, locks bool) ([][]sqlColumn, error) {
	if len(relations) == 0 {
		return nil, nil
	}
	tables, values := make([][]sqlColumn, len(relations)), make([]string, len(relations))
	for i, r := range relations {
		values[i] = fmt.Sprintf("('%s', %d)", strings.ReplaceAll(r, "'", "''"), i+1)
	}
	batch := &pgx.Batch{}
	if locks { // in the round trip of the query, which takes its snapshot when it has the locks
		batch.Queue("lock table " + strings.Join(relations, ", ") + " in row exclusive mode")
	}
	batch.Queue(fmt.Sprintf(catalogQuery, strings.Join(values, ", ")))
	results := conn.SendBatch(ctx, batch)
	defer results.Close()
	if locks {
		if _, err := results.Exec(); err != nil {
			return nil, fmt.Errorf("lock the tables: %w", err)
		}
	}
	rows, err := results.Query()
	if err != nil {
		return nil, fmt.Errorf("read the column types: %w", err)
	}
	var c sqlColumn
	var number int
	into := []any{
		&number, &c.Name, &c.OID, &c.Type, &c.Kind, &c.Category, &c.Elem, &c.ElemKind, &c.NotNull, &c.Filled, &c.Computed,
		&c.Unique, &c.Alone, &c.Pairs, &c.Number, &c.Declared, &c.Row, &c.Rows, &c.TextOnly, &c.Plain,
	}
	_, err = pgx.ForEachRow(rows, into, func() error {
		tables[number-1] = append(tables[number-1], c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the column types: %w", err)
	}
	if err := results.Close(); err != nil {
		return nil, fmt.Errorf("read the column types: %w", err)
	}
	for _, columns := range tables {
		for i := range columns {
			if c := &columns[i]; c.Kind == "d" {
				row := conn.QueryRow(ctx, domainQuery, c.OID)
				if err := row.Scan(&c.OID, &c.Type, &c.Kind, &c.Category, &c.Elem, &c.ElemKind); err != nil {
					return nil, fmt.Errorf("read the type of column %s: %w", c.Name, err)
				}
			}
		}
	}
	return tables, nil
}

// registerEnums teaches pgtype the enums and arrays of enums that it meets: to it they are text.
func registerEnums(m *pgtype.Map, cs []sqlColumn) {
	for _, c := range cs {
		if c.Kind == "e" {
			registerEnum(m, c.OID, c.Type)
		}
		if c.ElemKind == "e" {
			elem := registerEnum(m, c.Elem, strings.TrimSuffix(c.Type, "[]"))
			if _, known := m.TypeForOID(c.OID); !known {
				m.RegisterType(&pgtype.Type{Name: c.Type, OID: c.OID, Codec: &pgtype.ArrayCodec{ElementType: elem}})
			}
		}
	}
}

func registerEnum(m *pgtype.Map, oid uint32, name string) *pgtype.Type {
	t, known := m.TypeForOID(oid)
	if !known {
		t = &pgtype.Type{Name: name, OID: oid, Codec: &pgtype.EnumCodec{}}
		m.RegisterType(t)
	}
	return t
}

// checkShape compares the model with the table's columns and reports all that does not fit.
func (m *model) checkShape(table string, cs []sqlColumn) error {
	if len(cs) == 0 {
		return fmt.Errorf("table %s does not exist", table)
	}
	var errs []error
	found := map[string]*sqlColumn{}
	for i := range cs {
		c := &cs[i]
		found[c.Name] = c
		if c.NotNull && !c.Filled && !c.Computed && m.column(c.Name) == nil {
			errs = append(errs, fmt.Errorf("table %s: column %s is not null and has no default, and %v has no field for it: "+
				"add the field, or a default in SQL", table, c.Name, m.goType))
		}
	}
	for _, c := range m.columns {
		if sql, ok := found[c.name]; !ok {
			errs = append(errs, fmt.Errorf("table %s: no column %s, which is field %s of %v: "+
				"add it in SQL, or tag the field bun:\"-\"", table, c.name, c.goName, m.goType))
		} else if sql.Computed {
			errs = append(errs, fmt.Errorf("table %s: column %s is computed by the database: tag field %s of %v bun:\",scanonly\"",
				table, c.name, c.goName, m.goType))
		}
	}
	for _, c := range m.numbered {
		if sql, ok := found[c.name]; !ok {
			errs = append(errs, fmt.Errorf("table %s: no column %s, which is field %s of %v: add it in SQL", table, c.name, c.goName, m.goType))
		} else if !sql.Filled {
			errs = append(errs, fmt.Errorf("table %s: field %s of %v leaves column %s to the database, which has no default for it: "+
				"make it an identity or serial, or take autoincrement and identity from the tag", table, c.goName, m.goType, c.name))
		}
	}
	return errors.Join(errs...)
}
