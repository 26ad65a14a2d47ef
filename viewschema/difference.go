package viewschema

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// TableDifference is where the rows of two replays differ in one table.
type TableDifference struct {
	Table     string          `json:"table"`
	Projector string          `json:"projector"`
	Rows      int64           `json:"rows"`   // of the first replay
	Differ    int64           `json:"differ"` // rows that only one of the two has, of the one that has more of them
	Columns   []string        `json:"columns,omitempty"`
	Hints     []string        `json:"hints,omitempty"` // what may be the cause
	Examples  []RowDifference `json:"examples,omitempty"`
}

// RowDifference is a row of the first replay and the most similar one of the second that the first has not.
type RowDifference struct {
	Rebuilt  json.RawMessage `json:"rebuilt"`   // null: there is none
	CaughtUp json.RawMessage `json:"caught_up"` // null: there is none
	Columns  []string        `json:"columns"`   // that differ, if there are both
}

// Rows are paired to find the columns that differ, and some of the pairs are shown.
const (
	pairedRows = 50
	shownRows  = 3
)

// compare compares two replays' tables row by row, but for columns that the database numbers or computes.
func (d *determinism) compare(ctx context.Context, tx pgx.Tx, t *TableDifference, first, second string) error {
	one, other := pg.Table(d.def.Schema, t.Table+first), pg.Table(d.def.Schema, t.Table+second)
	columns, err := d.shape(ctx, tx, t.Table+first)
	if err != nil {
		return err
	}
	numbered := columns.made()
	with := fmt.Sprintf(`
		with one as materialized (select to_jsonb(t) - $1::text[] as r from %s t), other as materialized (select to_jsonb(t) - $1::text[] as r from %s t),
		missing as materialized (select r from one except all select r from other),
		surplus as materialized (select r from other except all select r from one)`, one, other)
	err = tx.QueryRow(ctx, with+"select (select count(*) from one), greatest((select count(*) from missing), (select count(*) from surplus))", numbered).
		Scan(&t.Rows, &t.Differ)
	if err != nil {
		return fmt.Errorf("comparing table %s: %w", t.Table, err)
	}
	if t.Differ == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, with+`
		select m.r, s.r
		from (select r from missing order by r limit $2) m
		left join lateral (
			select s.r from surplus s
			order by (select count(*) from pg_catalog.unnest($3::text[]) k where m.r -> k = s.r -> k) desc,
				(select count(*) from jsonb_each(s.r) c where m.r -> c.key = c.value) desc, s.r
			limit 1) s on true
		union all
		select null, s.r from (select r from surplus order by r limit $2) s where not exists (select from missing)`, numbered, pairedRows, d.set.KeyColumns(t.Table))
	if err != nil {
		return fmt.Errorf("comparing table %s: %w", t.Table, err)
	}
	pairs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p RowDifference, err error) {
		return p, row.Scan(&p.Rebuilt, &p.CaughtUp)
	})
	if err != nil {
		return fmt.Errorf("comparing table %s: %w", t.Table, err)
	}
	differ := map[string]bool{}
	for i := range pairs {
		if pairs[i].Columns, err = pairs[i].differ(); err != nil {
			return err
		}
		for _, c := range pairs[i].Columns {
			differ[c] = true
		}
	}
	t.Columns = slices.Sorted(maps.Keys(differ))
	t.Examples = pairs[:min(len(pairs), shownRows)]
	return nil
}

// differ returns the columns in which the rows differ.
func (r RowDifference) differ() (columns []string, err error) {
	columns = []string{}
	if r.Rebuilt == nil || r.CaughtUp == nil {
		return columns, nil
	}
	var one, other map[string]json.RawMessage
	if err := json.Unmarshal(r.Rebuilt, &one); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(r.CaughtUp, &other); err != nil {
		return nil, err
	}
	for name, value := range one {
		if !bytes.Equal(value, other[name]) {
			columns = append(columns, name)
		}
	}
	slices.Sort(columns)
	return columns, nil
}

// explain adds hints to the tables that differ. A third replay, which is like the first in all, tells projectors that depend on
// the order of events from those that make other rows each time.
func (d *determinism) explain(ctx context.Context, tx pgx.Tx) error {
	if err := d.rebuild(ctx, tx, rebuiltAgain); err != nil {
		return err
	}
	for i := range d.result.Tables {
		t := &d.result.Tables[i]
		if t.Differ == 0 {
			continue
		}
		again := *t
		if err := d.compare(ctx, tx, &again, rebuiltSuffix, rebuiltAgain); err != nil {
			return err
		}
		if again.Differ == 0 {
			t.Hints = append(t.Hints, "the same order makes the same rows: they depend on which aggregates come before, or on which events come together; "+
				"look for package variables and caches, and for rows of other aggregates")
		}
		for _, column := range t.Columns {
			hint, err := d.hint(ctx, tx, t, column)
			if err != nil {
				return err
			}
			if hint != "" {
				t.Hints = append(t.Hints, hint)
			}
		}
		if len(t.Hints) == 0 {
			t.Hints = append(t.Hints, "not even the same order makes the same rows: look for random values, the clock, the order of a map's keys, "+
				"and variables that outlive an event")
		}
	}
	return nil
}

// hint says what the values of a column point to; empty if to nothing in particular.
func (d *determinism) hint(ctx context.Context, tx pgx.Tx, t *TableDifference, column string) (string, error) {
	var typ, value string
	err := tx.QueryRow(ctx, `
		select format_type(a.atttypid, null), coalesce(pg_get_expr(d.adbin, d.adrelid), '')
		from pg_catalog.pg_attribute a
		left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		where a.attrelid = to_regclass($1) and a.attname = $2`, pg.Table(d.def.Schema, t.Table+rebuiltSuffix), column).Scan(&typ, &value)
	if err != nil {
		return "", fmt.Errorf("reading column %s of %s: %w", column, t.Table, err)
	}
	switch {
	case strings.Contains(value, "(") || strings.HasPrefix(value, "CURRENT_") || strings.HasPrefix(value, "LOCALTIME"):
		return fmt.Sprintf("%s: its default is %s; have the projector write it, from the event", column, value), nil
	case typ == "timestamp with time zone" || typ == "timestamp without time zone":
		recent, err := d.recent(ctx, tx, t.Table, column)
		if err != nil || !recent {
			return "", err
		}
		return fmt.Sprintf("%s: the time of the replay; take the event's, Meta.Time", column), nil
	case typ == "uuid":
		return fmt.Sprintf("%s: a random id; derive it from the event, for example with uuid.NewSHA1", column), nil
	}
	return "", nil
}

// clocksApart is how far this machine's clock may be from the server's.
const clocksApart = time.Minute

// recent says whether the column has times that lie between the beginning of the first replay and now, in whatever zone.
func (d *determinism) recent(ctx context.Context, tx pgx.Tx, table, column string) (recent bool, err error) {
	c := pgx.Identifier{column}.Sanitize()
	err = tx.QueryRow(ctx, fmt.Sprintf(`
		select exists (
			select from %s t
			where t.%[2]s::timestamp between ($1::timestamptz at time zone 'UTC') and ((clock_timestamp() + $2::interval) at time zone 'UTC')
			   or t.%[2]s::timestamptz between $1 and clock_timestamp() + $2)`, pg.Table(d.def.Schema, table+rebuiltSuffix), c), d.began.Add(-clocksApart), clocksApart).Scan(&recent)
	if err != nil {
		return false, fmt.Errorf("looking at column %s of %s: %w", column, table, err)
	}
	return recent, nil
}
