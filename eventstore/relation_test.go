package eventstore_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// However a store names and types its columns, other SQL reads them under the same names and types, with the same values.
func TestSQL(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql     string
		mapping eventstore.Mapping
		idType  string
		null    bool // what the mapping leaves out
	}{
		"as it is": {
			`
			create table events (position bigint, aggregate_id text, aggregate_type text, sequence_number bigint, event_type text, data jsonb,
				created_at timestamptz);
			insert into events values (1, 'a', 'x', 1, 'Opened', '{"n": 1}', '2024-01-02 03:04:05Z'), (2, 'b', 'x', 1, 'Opened', '{"n": 2}', null)`,
			eventstore.Mapping{},
			"text", true,
		},
		"otherwise": {
			`
			create table "Events" ("Id" int, stream varchar, kind varchar, no smallint, name name, body bytea, meta text, at timestamp, version int, tenant int, gone bool);
			insert into "Events" values (1, 'a', '', 1, 'Opened', '{"n": 1}', '{"by": "me"}', '2024-01-02 03:04:05', 1, 7, false);
			insert into "Events" values (2, 'b', '', 1, 'Opened', '{"n": 2}');
			insert into "Events" (stream, name, gone) values ('b', 'Gone', true)`,
			eventstore.Mapping{
				Relation: `"Events"`, Position: "Id", AggregateID: "stream", AggregateType: "kind", Sequence: "no", Type: "name", Data: "body",
				Metadata: "meta", Time: "at", SchemaVersion: "version", Tenant: "tenant", Where: "gone is not true",
			},
			"text", false,
		},
		"json and uuid": {
			`
			create table events (position bigint, aggregate_id uuid, sequence_number int, event_type text, data json);
			insert into events values (1, '00000000-0000-0000-0000-00000000000a', 1, 'Opened', '{"n": 1}'), (2, '00000000-0000-0000-0000-00000000000b', 1, 'Opened', '{"n": 2}')`,
			eventstore.Mapping{},
			"uuid", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := store(t, test.sql)
			r := reader(t, db, test.mapping)
			ids := []projections.ID{}
			for _, text := range []string{"a", "b"} {
				if test.idType == "uuid" {
					text = "00000000-0000-0000-0000-00000000000" + text
				}
				id, err := r.ParseID(text)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
			inTx(t, db, func(tx pgx.Tx) {
				if _, err := tx.Exec(t.Context(), "set local timezone = 'Asia/Tokyo'"); err != nil {
					t.Fatal(err)
				}
				read := func(sel eventstore.Selection) (lines []string) {
					sql, args := r.SQL(sel)
					rows, _ := tx.Query(t.Context(), `
						select concat_ws(' ', position, right(aggregate_id::text, 1), sequence_number, lower(event_type), data,
							coalesce(metadata::text, '-'), coalesce((created_at at time zone 'UTC')::text, '-'), coalesce(schema_version, '-'), coalesce(tenant, '-')),
							(
								select string_agg(typname, ' ' order by n)
								from unnest(array[pg_typeof(position), pg_typeof(aggregate_id), pg_typeof(aggregate_type), pg_typeof(sequence_number),
									pg_typeof(event_type), pg_typeof(data), pg_typeof(metadata), pg_typeof(created_at), pg_typeof(schema_version),
									pg_typeof(tenant)]::oid[]) with ordinality t (oid, n)
								join pg_type using (oid))
						from (`+sql+`) e order by position`, args...)
					var line, types string
					if _, err := pgx.ForEachRow(rows, []any{&line, &types}, func() error {
						lines = append(lines, line)
						want := strings.Join([]string{"int8", test.idType, "text", "int8", "text", "jsonb", "jsonb", "timestamptz", "text", "text"}, " ")
						if types != want {
							t.Errorf("types %s, want %s", types, want)
						}
						return nil
					}); err != nil {
						t.Fatal(err)
					}
					return lines
				}
				first, second := `1 a 1 opened {"n": 1} {"by": "me"} 2024-01-02 03:04:05 1 7`, `2 b 1 opened {"n": 2} - - - -`
				if test.null {
					first = `1 a 1 opened {"n": 1} - 2024-01-02 03:04:05 - -`
				}
				if test.idType == "uuid" {
					first = `1 a 1 opened {"n": 1} - - - -`
				}
				for _, c := range []struct {
					sel  eventstore.Selection
					want []string
				}{
					{eventstore.Selection{}, []string{first, second}},
					{eventstore.Selection{Range: eventstore.Range{From: ids[1]}}, []string{second}},
					{eventstore.Selection{Range: eventstore.Range{To: ids[1]}}, []string{first}},
					{eventstore.Selection{Aggregates: ids[1:], After: 1}, []string{second}},
				} {
					if got := read(c.sel); !slices.Equal(got, c.want) {
						t.Errorf("%+v:\n%s\nwant\n%s", c.sel, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
					}
					where, args := r.Among(c.sel, "id", test.idType, 1)
					var among int
					err := tx.QueryRow(t.Context(), fmt.Sprintf("select count(*) from (select distinct aggregate_id::text::%s as id from (%s) e union all select null) e where %s",
						test.idType, everything(r), where), args...).Scan(&among)
					if err != nil || among != len(c.want) {
						t.Errorf("%+v: %d among, want %d; %v", c.sel, among, len(c.want), err)
					}
				}
			})
		})
	}
}

func everything(r *eventstore.Reader) string {
	sql, _ := r.SQL(eventstore.Selection{})
	return sql
}

// A sample has small and large aggregates, and few events.
func TestSample(t *testing.T) {
	t.Parallel()
	db := store(t, table("uuid"), `
		insert into events (aggregate_id, sequence_number, event_type, data)
		select ('00000000-0000-0000-0000-' || lpad(a::text, 12, '0'))::uuid, n, 't', '{}' from generate_series(1, 60) a, generate_series(1, a) n`)
	got, err := reader(t, db, eventstore.Mapping{}).Sample(t.Context(), db, 6, 100)
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int64
	for _, a := range got {
		sizes = append(sizes, a.Events)
	}
	if want := []int64{1, 11, 21, 31}; !slices.Equal(sizes, want) {
		t.Errorf("%v, want %v", sizes, want)
	}
}
