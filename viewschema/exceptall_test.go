package viewschema_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// inPairs has tables in SQL, which every version rebuilds: one with a key; one without, whose rows occur more than once; and the
// same with a key that the database numbers.
func inPairs() viewschema.Definition {
	keyed := inSQLTable(projections.SQLTable{
		Name: "keyed", Aggregate: "id", Query: "select aggregate_id as id, max(data ->> 'word') as word, count(*)::int as n from %EVENTS% group by aggregate_id",
	})
	const query = "select aggregate_id as id, data ->> 'word' as word, 1 as n from %EVENTS%"
	bare := inSQLTable(projections.SQLTable{Name: "bare", Aggregate: "id", Query: query})
	numbered := inSQLTable(projections.SQLTable{Name: "numbered", Aggregate: "id", Query: query})
	replay := projector.Replay(keyed, bare, numbered)
	return viewschema.Definition{
		Projectors: []*projections.Projector{keyed, bare, numbered},
		Versions:   projector.Versions{1: {replay}, 2: {replay}},
		Views: fstest.MapFS{
			"keyed.sql":    {Data: []byte("create table keyed%SUFFIX% (id uuid primary key, word text, n int, no bigint generated always as identity)")},
			"bare.sql":     {Data: []byte("create table bare%SUFFIX% (id uuid not null, word text, n int)")},
			"numbered.sql": {Data: []byte("create table numbered%SUFFIX% (no bigserial primary key, id uuid not null, word text, n int)")},
		},
	}
}

// wordStore has 300 events of 100 aggregates.
func wordStore(ctx context.Context, conn *pgx.Conn) error {
	if err := emptyStore(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `
		insert into events (aggregate_id, sequence_number, event_type, data)
		select md5((i % 100)::text)::uuid, 1 + i / 100, 'Said', case i % 7 when 0 then '{}'::jsonb else jsonb_build_object('word', i % 4) end
		from generate_series(0, 299) i`)
	return err
}

// Whatever was done to the live tables: the rows that only one has, and the columns that differ, are those that PostgreSQL finds
// by comparing all rows with all. Seen to fail with an exclusive or for the sum (two equal rows are missed).
func TestVerifyFindsWhatExceptAllFinds(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, wordStore)
	first := inPairs()
	first.Versions = first.Versions.UpTo(1)
	online(t, open(t, db, first))
	offline(t, open(t, db, first))
	s, err := viewschema.Open(db, inPairs(), viewschema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	online(t, s)
	rapid.Check(t, func(r *rapid.T) {
		mustExec(t, db, `
			truncate view_schema.keyed, view_schema.bare, view_schema.numbered;
			insert into view_schema.keyed (id, word, n) select id, word, n from view_schema.keyed_2;
			insert into view_schema.numbered (id, word, n) select id, word, n from view_schema.numbered_2;
			insert into view_schema.bare select * from view_schema.bare_2`)
		for range rapid.IntRange(0, 3).Draw(r, "edits") {
			table := rapid.SampledFrom([]string{"keyed", "bare", "numbered"}).Draw(r, "table")
			some := fmt.Sprintf("ctid in (select ctid from view_schema.%s order by ctid offset %d limit %d)", table,
				rapid.IntRange(0, 99).Draw(r, "from"), rapid.IntRange(1, 5).Draw(r, "rows"))
			id := "id"
			if table == "keyed" {
				id = "gen_random_uuid()"
			}
			edit := rapid.SampledFrom([]string{
				"delete from view_schema.%[1]s where %[2]s",
				"update view_schema.%[1]s set word = null where %[2]s",
				"update view_schema.%[1]s set word = '' where %[2]s",
				"update view_schema.%[1]s set n = n + 1, word = '1' where %[2]s",
				"insert into view_schema.%[1]s (id, word, n) select %[3]s, word, n from view_schema.%[1]s where %[2]s",
				"with s as (select id, lead(word) over (order by id) as word from view_schema.%[1]s where %[2]s) update view_schema.%[1]s t set word = s.word from s where t.id = s.id",
			}).Draw(r, "edit")
			mustExec(t, db, strings.NewReplacer("%[1]s", table, "%[2]s", some, "%[3]s", id).Replace(edit))
		}
		v, err := s.Verify(t.Context())
		if err != nil {
			r.Fatal(err)
		}
		for _, c := range v.Tables {
			var built, live, onlyBuilt, onlyLive, words, numbers int64
			err := db.QueryRow(t.Context(), fmt.Sprintf(`
				with built as (select id, word, n from view_schema.%[1]s_2), live as (select id, word, n from view_schema.%[1]s)
				select (select count(*) from (table built except all table live) d), (select count(*) from (table live except all table built) d),
					(select count(*) from built b where not exists (select from live l where l.id = b.id)),
					(select count(*) from live l where not exists (select from built b where l.id = b.id)),
					(select count(*) from built b join live l using (id) where b.word is distinct from l.word),
					(select count(*) from built b join live l using (id) where b.n is distinct from l.n)`, c.Table)).
				Scan(&built, &live, &onlyBuilt, &onlyLive, &words, &numbers)
			if err != nil {
				r.Fatal(err)
			}
			var columns []viewschema.ColumnDifference
			if c.Table != "keyed" {
				onlyBuilt, onlyLive = built, live
			} else {
				for column, n := range map[string]int64{"word": words, "n": numbers} {
					if n > 0 {
						columns = append(columns, viewschema.ColumnDifference{Column: column, Rows: n})
					}
				}
				slices.SortFunc(columns, func(a, b viewschema.ColumnDifference) int { return strings.Compare(b.Column, a.Column) }) // word, n
			}
			if c.OnlyBuilt != onlyBuilt || c.OnlyLive != onlyLive || c.OnlyBuilt+c.Differ != built || c.OnlyLive+c.Differ != live || !slices.Equal(c.Columns, columns) {
				r.Errorf("%s: %s; want %d and %d, with %d and %d that are in no pair, %v", c.Table, told(c), built, live, onlyBuilt, onlyLive, columns)
			}
			if c.Same() != (built+live == 0) || len(c.Examples) == 0 == (built+live > 0) {
				r.Errorf("%s: same %v, examples %v", c.Table, c.Same(), c.Examples)
			}
		}
	})
}
