package eventtable_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/eventtable"
	"github.com/viewschema/projector/internal/pgtest"
)

const (
	columns = "position bigint generated always as identity, aggregate_id uuid not null, sequence_number int not null, event_type text not null, data jsonb not null"
	rows    = "insert into events (aggregate_id, sequence_number, event_type, data) select md5((i % 50)::text)::uuid, i / 50, 'Moved', '{}' from generate_series(1, 30000) i"
)

// store is a database with what sql makes.
func store(t *testing.T, sql ...string) *pgxpool.Pool {
	t.Helper()
	db := pgtest.Database(t, nil)
	do(t, db, sql...)
	return db
}

// severities of the findings by what they are about.
func check(t *testing.T, db *pgxpool.Pool, m eventstore.Mapping) map[string]eventtable.Severity {
	t.Helper()
	r, err := eventtable.Check(t.Context(), db, m)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]eventtable.Severity{}
	for _, f := range r.Findings {
		found[f.About] = f.Severity
		if f.Severity == eventtable.Mend && (f.Cost == "" || f.Type == "") {
			t.Errorf("%s: it does not say what it costs and what to type: %+v", f.About, f)
		}
	}
	if mend := slices.ContainsFunc(r.Findings, func(f eventtable.Finding) bool { return f.Severity == eventtable.Mend }); mend == r.Fit() {
		t.Errorf("fit is %t: %+v", r.Fit(), r.Findings)
	}
	return found
}

func want(t *testing.T, name string, found map[string]eventtable.Severity, severities map[string]eventtable.Severity) {
	t.Helper()
	for about, severity := range severities {
		if found[about] != severity {
			t.Errorf("%s: %s is %q, want %q", name, about, found[about], severity)
		}
	}
}

// What is missing is found, in tables, partitioned tables and views; what prepare can mend, it mends.
func TestCheck(t *testing.T) {
	t.Parallel()
	fit, note, mend := eventtable.Fit, eventtable.Note, eventtable.Mend
	for name, test := range map[string]struct {
		sql     []string
		mapping eventstore.Mapping
		found   map[string]eventtable.Severity
		after   []string // steps of prepare; nil: it is not for this relation
	}{
		"fit": {
			[]string{"create table events (" + columns + ", primary key (position), unique (aggregate_id, sequence_number))"},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": fit, "ranges": fit, "position": fit, "trust": fit, "rights": fit, "writer lock": fit, "statistics": fit},
			[]string{},
		},
		"bare": {
			[]string{"create table events (" + columns + ") with (autovacuum_enabled = off)", rows},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": mend, "ranges": mend, "position": mend, "statistics": mend},
			[]string{"index of the key", "index of positions", "analyze"},
		},
		"invalid index": {
			[]string{
				"create table events (" + columns + ", primary key (position), unique (aggregate_id, sequence_number))",
				"create index by_type on events (event_type)", "update pg_index set indisvalid = false where indexrelid = 'by_type'::regclass",
			},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"index by_type": mend},
			[]string{"rebuild by_type"},
		},
		"key of its own": {
			[]string{"create table events (" + columns + ", tenant int not null default 1, primary key (position), unique (tenant, aggregate_id, sequence_number))"},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": note, "ranges": note},
			[]string{},
		},
		"positions of no sequence": {
			[]string{"create table events (" + strings.Replace(columns, "generated always as identity", "not null", 1) + ", primary key (position), unique (aggregate_id, sequence_number))"},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"trust": note, "key": fit},
			[]string{},
		},
		"partitioned": {
			[]string{
				"create table events (" + strings.Replace(columns, "generated always as identity", "not null", 1) + ", primary key (position, aggregate_id), unique (aggregate_id, sequence_number)) partition by hash (aggregate_id)",
				"create table events_0 partition of events for values with (modulus 2, remainder 0)", "create table events_1 partition of events for values with (modulus 2, remainder 1)",
			},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": fit, "ranges": fit, "position": fit},
			[]string{},
		},
		"a partition without its index": {
			[]string{
				"create table events (" + strings.Replace(columns, "generated always as identity", "not null", 1) + ") partition by hash (aggregate_id)",
				"create table events_0 partition of events for values with (modulus 2, remainder 0)", "create table events_1 partition of events for values with (modulus 2, remainder 1)",
				"create unique index on events_0 (aggregate_id, sequence_number)",
			},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": mend, "ranges": mend, "position": mend},
			[]string{},
		},
		"partitioned by position": {
			[]string{
				"create table events (" + strings.Replace(columns, "generated always as identity", "not null", 1) + ", primary key (position)) partition by range (position)",
				"create table events_0 partition of events default",
			},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": note, "ranges": mend, "position": fit},
			[]string{},
		},
		"view": {
			[]string{"create table moved (" + columns + ", primary key (position), unique (aggregate_id, sequence_number))", "create view events as select * from moved where event_type <> 'Snapshot'"},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": note, "ranges": fit, "trust": fit, "rights": fit},
			nil,
		},
		"view without an index": {
			[]string{"create table moved (" + columns + ", primary key (position))", "create view events as select * from moved"},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"ranges": mend},
			nil,
		},
		"language's order": {
			[]string{`create table events (` + strings.Replace(columns, "aggregate_id uuid", `aggregate_id text collate "und-x-icu"`, 1) + `, primary key (position), unique (aggregate_id, sequence_number))`},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": fit, "ranges": mend},
			[]string{},
		},
		"order of bytes beside": {
			[]string{
				`create table events (` + strings.Replace(columns, "aggregate_id uuid", `aggregate_id text collate "und-x-icu"`, 1) + `, primary key (position), unique (aggregate_id, sequence_number))`,
				`create index on events (aggregate_id collate "C", sequence_number)`,
			},
			eventstore.Mapping{},
			map[string]eventtable.Severity{"key": fit, "ranges": fit},
			[]string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := store(t, test.sql...)
			want(t, name, check(t, db, test.mapping), test.found)
			p := plan(t, db, test.mapping, quick())
			if test.after == nil {
				if !errors.Is(p.Err(), eventtable.ErrRefused) {
					t.Errorf("prepare of a view: %v", p.Err())
				}
				return
			}
			taken, err := p.Run(t.Context(), db)
			if err != nil || !slices.Equal(taken, test.after) && len(taken)+len(test.after) > 0 {
				t.Errorf("prepare took %v, %v; want %v", taken, err, test.after)
			}
			if len(taken) == 0 {
				return
			}
			for about, severity := range check(t, db, test.mapping) {
				if severity == mend && about != "statistics" { // the server counts the changed rows with a delay
					t.Errorf("%s is still to be mended", about)
				}
			}
		})
	}
}

// A role that may only read is told what it may not do.
func TestCheckRights(t *testing.T) {
	t.Parallel()
	db := store(t, "create table events ("+columns+", primary key (position), unique (aggregate_id, sequence_number))")
	role := "reader_" + db.Config().ConnConfig.Database
	do(t, db, "create role "+role)
	t.Cleanup(func() {
		if _, err := db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	config := db.Config()
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "set role "+role)
		return err
	}
	reader, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	do(t, db, "grant select on events to "+role)
	want(t, "reader", check(t, reader, eventstore.Mapping{}), map[string]eventtable.Severity{
		"rights": eventtable.Fit, "writer lock": eventtable.Note, "trust": eventtable.Note, "ranges": eventtable.Fit,
	})
	do(t, db, "alter table events drop constraint events_aggregate_id_sequence_number_key")
	if p := plan(t, reader, eventstore.Mapping{}, quick()); !errors.Is(p.Err(), eventtable.ErrRefused) || !strings.Contains(p.Err().Error(), "belongs to") {
		t.Errorf("prepare by a reader: %v", p.Err())
	}
}

// Statistics grow old. The server counts changed rows with a delay.
func TestOldStatistics(t *testing.T) {
	t.Parallel()
	db := store(t, "create table events ("+columns+", primary key (position), unique (aggregate_id, sequence_number)) with (autovacuum_enabled = off)",
		rows, "analyze events", "update events set data = '[]'")
	for tick := time.NewTicker(10 * time.Millisecond); value[int64](t, db, "select n_mod_since_analyze from pg_stat_all_tables where relid = 'events'::regclass") < 30_000; <-tick.C {
		do(t, db, "select 1") // a session tells what it has counted when it becomes idle
	}
	want(t, "changed", check(t, db, eventstore.Mapping{}), map[string]eventtable.Severity{"statistics": eventtable.Mend})
	if taken := prepare(t, db, eventstore.Mapping{}, quick()); !slices.Equal(taken, []string{"analyze"}) {
		t.Errorf("took %v", taken)
	}
}
