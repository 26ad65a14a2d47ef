package main

import (
	"strings"
	"testing"

	"github.com/viewschema/projector/internal/pglocal"
	"github.com/viewschema/projector/internal/pgtest"
)

// The data sets are what their names say. What holds for all of them: an aggregate's sequence numbers have no gaps and go up
// with the positions, and begin with an account that is opened.
func TestDataSets(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, nil, pglocal.Options{})
	b := &bench{server: server, made: map[string]bool{}, stderr: writer(func(string) {})}
	from, err := b.store(t.Context(), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []struct{ name, script, is string }{
		{"uuidv7", toUUIDv7, `
			count(*) = 10000
			and bool_and(substr(aggregate_id::text, 15, 1) = '7')
			and bool_and(substr(aggregate_id::text, 20, 1) in ('8', '9', 'a', 'b'))
			and bool_and(sequence_number > 1 or ('x' || substr(replace(aggregate_id::text, '-', ''), 1, 12))::bit(48)::bigint = extract(epoch from created_at) * 1000)`},
		{"texts", toText, `
			count(*) = 10000
			and min(aggregate_id) = 'account-1'
			and bool_and(aggregate_id ~ '^account-[0-9]+$')
			and pg_typeof(min(aggregate_id)) = 'text'::regtype`},
		{"hot", toHot, `
			count(*) = 10000
			and count(*) filter (where aggregate_id = 'b0000000-0000-4000-8000-00000000000b') = 3000
			and count(*) filter (where aggregate_id = 'b0000000-0000-4000-8000-00000000000b' and position <= 1000) between 295 and 305`},
		{"tenfold", toTenfold, `
			count(*) = 100000
			and count(distinct aggregate_id) = count(*) filter (where sequence_number = 1)
			and count(distinct data ->> 'iban') = count(*) filter (where event_type = 'AccountOpened')`},
		{"copy", "", "count(*) = 10000"},
	} {
		if err := b.derive(t.Context(), set.name, from, set.script); err != nil {
			t.Fatal(err)
		}
		for _, is := range []string{set.is, "bool_and((sequence_number = 1) = (event_type = 'AccountOpened'))"} {
			if ok, err := query[bool](t.Context(), b, set.name, "select "+is+" from events"); err != nil || !ok {
				t.Errorf("%s: %t, %v: %s", set.name, ok, err, is)
			}
		}
		wrong, err := query[int](t.Context(), b, set.name, `
			select count(*)
			from (select sequence_number, row_number() over (partition by aggregate_id order by position) as place from events) e
			where sequence_number <> place`)
		if err != nil || wrong > 0 {
			t.Errorf("%s: %d events are out of sequence, %v", set.name, wrong, err)
		}
	}
}

// What comes after a rebuild is what the customers do next, as if the store had been larger from the beginning.
func TestSequel(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, nil, pglocal.Options{})
	b := &bench{server: server, made: map[string]bool{}, stderr: writer(func(string) {})}
	var sums []string
	for _, events := range []int{1_000, 1_300} {
		database, err := b.store(t.Context(), events)
		if err != nil {
			t.Fatal(err)
		}
		history := sequel(events)
		for _, more := range []int{1_301 - events, 99} {
			if err := b.appendEvents(t.Context(), database, history, more); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := query[string](t.Context(), b, database, `
			select count(*) || md5(string_agg(concat(position, aggregate_id, sequence_number, event_type, data), ',' order by position)) from events`)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] || !strings.HasPrefix(sums[0], "1400") {
		t.Errorf("%s after 1,000 events and %s after 1,300", sums[0], sums[1])
	}
}
