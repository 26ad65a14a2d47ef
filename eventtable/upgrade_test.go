package eventtable_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/eventtable"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
)

var everyStep = []string{
	"column", "index to fill", "fill", "index of positions", "number the last", "validate", "not null", "index of the key", "unique",
	"primary key",
}

// The session of the preparation is ended before and after every statement and commit, while the application writes; each
// run goes on where the one before has ended, and the rows are right. Then the table is read by its positions.
func TestUpgradeKilledEverywhere(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, axon2)
	app := startApplication(t, db)
	seen, fills, step := map[string]bool{}, 0, ""
	o := quick()
	o.Begin = func(s eventtable.Step) { step = s.Name }
	var died int
	for runs := 0; ; runs++ {
		if runs > 100 {
			t.Fatalf("it does not come to an end; seen are %v", seen)
		}
		p := plan(t, db, axonMapping, o)
		killed := false
		ctx := pg.WithFault(t.Context(), func(moment pg.Moment, point pg.Point) {
			key := fmt.Sprintln(moment, point, step)
			if point == pg.PointFill && moment == pg.After {
				if fills++; fills == 3 {
					key += "later"
				}
			}
			if seen[key] || killed {
				return
			}
			seen[key], killed = true, true
			if n := value[int](t, db, "select count(*) filter (where pg_terminate_backend(pid, 10000)) from pg_stat_activity where pid = (select pid from pg_locks where locktype = 'advisory' and objid = 'domainevententry'::regclass and database = (select oid from pg_database where datname = current_database()))"); n != 1 {
				t.Errorf("ended %d sessions", n)
			}
		})
		_, err := p.Run(ctx, db)
		if err == nil {
			break
		}
		if !killed || !pg.IsConnectionLost(err) {
			t.Fatal(err)
		}
		died++
		if t.Failed() {
			return
		}
	}
	if want := 2*len(everyStep) + 1; died < want {
		t.Errorf("it died %d times, want %d: %v", died, want, seen)
	}
	app.await(t, 50)
	app.end()
	verify(t, db, app.written.Load())
	if p := plan(t, db, axonMapping, o); slices.ContainsFunc(p.Steps, func(s eventtable.Step) bool { return !s.Done && s.Name != "analyze" }) {
		t.Errorf("a second run would do something: %+v", p.Steps)
	}
	if keys := value[string](t, db, "select string_agg(pg_get_constraintdef(oid), '; ' order by contype) from pg_constraint where conrelid = 'domainevententry'::regclass and contype <> 'n'"); keys !=
		"PRIMARY KEY (globalindex); UNIQUE (aggregateidentifier, sequencenumber)" {
		t.Errorf("the constraints are: %s", keys)
	}
	if n := value[int](t, db, "select count(*) from pg_index where indrelid = 'domainevententry'::regclass"); n != 2 {
		t.Errorf("%d indexes", n)
	}
	readable(t, db.Config().ConnConfig)
}

// readable wants a cut to be settled in what was upgraded: the sequence is the column's, and can be trusted.
func readable(t *testing.T, config *pgx.ConnConfig) {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	r, err := eventstore.Open(t.Context(), conn, eventstore.Mapping{
		Relation: "domainevententry", Position: "globalindex", AggregateID: "aggregateidentifier", Sequence: "sequencenumber", Type: "payloadtype", Data: "payload",
	})
	if err != nil {
		t.Fatal(err)
	}
	cut, err := r.Settle(t.Context(), conn, eventstore.Wait{})
	if err != nil || cut.Reason != "" || cut.Position == 0 {
		t.Errorf("cut %+v, %v", cut, err)
	}
}

// A run without accidents takes every step once, in order, and writers are not held off. The table belongs to another role than
// ours, as it does when an administrator prepares it; so does its sequence then.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, axon2)
	owner := "owner_" + db.Config().ConnConfig.Database
	do(t, db, "create role "+owner, "alter table domainevententry owner to "+owner)
	t.Cleanup(func() {
		if _, err := db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+owner+"; drop role "+owner); err != nil {
			t.Error(err)
		}
	})
	app := startApplication(t, db)
	var filled int64
	o := quick()
	o.Progress = func(p eventtable.Progress) { filled = p.Numbered }
	o.Pause = time.Millisecond
	taken, err := plan(t, db, axonMapping, o).Run(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if taken = slices.DeleteFunc(taken, func(s string) bool { return s == "analyze" }); !slices.Equal(taken, everyStep) {
		t.Errorf("took %v", taken)
	}
	if filled < 3_000 {
		t.Errorf("%d rows were numbered in batches", filled)
	}
	app.await(t, 50)
	app.end()
	verify(t, db, app.written.Load())
	if got := value[string](t, db, "select relowner::regrole::text from pg_class where oid = pg_get_serial_sequence('domainevententry', 'globalindex')::regclass"); got != owner {
		t.Errorf("the sequence belongs to %s", got)
	}
}

// Whoever reads for long keeps the preparation waiting, not the application; and it says who that is.
func TestLockIsNotQueuedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, axon2)
	app := startApplication(t, db)
	reader, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(context.WithoutCancel(t.Context()))
	if _, err := reader.Exec(t.Context(), "select from domainevententry limit 1"); err != nil {
		t.Fatal(err)
	}
	o := quick()
	o.LockTimeout, o.LockWait = 10*time.Millisecond, 300*time.Millisecond
	_, err = plan(t, db, axonMapping, o).Run(t.Context(), db)
	if pid := fmt.Sprint("pid ", reader.Conn().PgConn().PID()); !errors.Is(err, eventtable.ErrLockWait) || !strings.Contains(err.Error(), pid) {
		t.Errorf("%v; want it to name %s", err, pid)
	}
	go func() {
		app.await(t, 200) // with the preparation trying all the time
		_ = reader.Rollback(context.WithoutCancel(t.Context()))
	}()
	prepare(t, db, axonMapping, quick())
	app.end()
	verify(t, db, app.written.Load())
}

// Two cannot prepare one table.
func TestAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, axon2)
	p := plan(t, db, axonMapping, quick())
	o := quick()
	o.LockWait = 50 * time.Millisecond
	var second error
	ctx := pg.WithFault(t.Context(), func(moment pg.Moment, point pg.Point) {
		if point == pg.PointFill && second == nil {
			_, second = plan(t, db, axonMapping, o).Run(t.Context(), db)
		}
	})
	if _, err := p.Run(ctx, db); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(second, eventtable.ErrBusy) {
		t.Errorf("the second: %v", second)
	}
	verify(t, db, 0)
}

// An index build whose session ended leaves an invalid index, which is found and rebuilt: the temporary one, a unique one,
// and one that is none of ours.
func TestInvalidIndexes(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, axon2)
	do(t, db, "create index by_type on domainevententry (payloadtype)",
		"update pg_index set indisvalid = false where indexrelid = 'by_type'::regclass")
	for _, step := range []string{"index to fill", "index of positions", "index of the key"} {
		breakBuild(t, db, step)
		if n := value[int](t, db, "select count(*) from pg_index where not indisvalid and indrelid = 'domainevententry'::regclass"); n != 1 {
			t.Errorf("%s: %d invalid indexes", step, n)
		}
		if p := plan(t, db, axonMapping, quick()); !strings.HasPrefix(p.Steps[0].Name, "rebuild ") {
			t.Errorf("%s: the first step is %s", step, p.Steps[0].Name)
		}
	}
	prepare(t, db, axonMapping, quick())
	if n := value[int](t, db, "select count(*) from pg_index where indisvalid and indrelid = 'domainevententry'::regclass"); n != 3 {
		t.Errorf("%d valid indexes", n)
	}
	verify(t, db, 0)
}

// Identifiers that belong to aggregates of several types are found before anything is touched; with KeepType the type stays in the
// key, and they do no harm. A clash that comes while the key's index is built leaves no index that would refuse rows.
func TestSeveralTypes(t *testing.T) {
	t.Parallel()
	const clash = `
		insert into domainevententry
		select aggregateidentifier, sequencenumber, 'Person', 'p' || eventidentifier, metadata, payload, payloadrevision, payloadtype, timestamp
		from domainevententry
		where type = 'Account' and aggregateidentifier in ('account-3', 'account-4') and sequencenumber < 2`
	db := pgtest.Database(t, axon2)
	late := quick()
	late.Begin = func(s eventtable.Step) {
		if s.Name == "index of the key" {
			do(t, db, clash)
		}
	}
	if _, err := plan(t, db, axonMapping, late).Run(t.Context(), db); err == nil || !strings.Contains(err.Error(), "index of the key: ") || !strings.Contains(err.Error(), "is duplicated") {
		t.Errorf("a late clash: %v", err)
	}
	if n := value[int](t, db, "select count(*) from pg_index where not indisvalid and indrelid = 'domainevententry'::regclass"); n != 0 {
		t.Errorf("%d invalid indexes", n)
	}

	p := plan(t, db, axonMapping, quick())
	if d := p.Duplicates; d == nil || d.Identifiers != 2 || d.Events != 84 || d.Clashing != 8 || len(d.Examples) != 2 ||
		d.Examples[0].Identifier != "account-3" || !slices.Equal(d.Examples[0].Types, []string{"Account", "Person"}) {
		t.Errorf("duplicates: %+v", d)
	}
	if _, err := p.Run(t.Context(), db); !errors.Is(err, eventtable.ErrRefused) || !strings.Contains(err.Error(), "--keep-type") {
		t.Errorf("without a word: %v", err)
	}
	keep := quick()
	keep.KeepType = true
	prepare(t, db, axonMapping, keep)
	if keys := value[string](t, db, "select string_agg(pg_get_constraintdef(oid), '; ' order by contype) from pg_constraint where conrelid = 'domainevententry'::regclass and contype <> 'n'"); keys !=
		"PRIMARY KEY (globalindex); UNIQUE (aggregateidentifier, sequencenumber, type)" {
		t.Errorf("the constraints are: %s", keys)
	}
	verify(t, db, 4)
	if err := plan(t, db, axonMapping, quick()).Err(); err != nil {
		t.Errorf("without --keep-type, afterwards: %v", err)
	}
}

// Names, types and times differ from store to store: what JPA makes of them by Spring's names, a timestamp column, quoted names.
func TestOtherLayouts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ table, column, position string }{
		"spring":    {"domain_event_entry", "aggregate_identifier, sequence_number, type, event_identifier, payload, payload_type, time_stamp", "global_index"},
		"quoted":    {`"DomainEventEntry"`, `"aggregateIdentifier", "sequenceNumber", "type", "eventIdentifier", "payload", "payloadType", "timeStamp"`, `"globalIndex"`},
		"timestamp": {"domainevententry", "aggregateidentifier, sequencenumber, type, eventidentifier, payload, payloadtype, timestamp::timestamptz", "globalindex"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, axon2)
			column := strings.Split(test.column, ", ")
			old := []string{"aggregateidentifier", "sequencenumber", "type", "eventidentifier", "payload", "payloadtype", "timestamp"}
			var list []string
			for i, c := range column {
				if strings.Contains(c, "::") {
					list = append(list, c)
				} else {
					list = append(list, old[i]+" as "+c)
				}
			}
			do(t, db, "create table moved as select "+strings.Join(list, ", ")+" from domainevententry order by random()", "drop table domainevententry",
				"alter table moved rename to "+test.table,
				"alter table "+test.table+" add primary key ("+strings.Join(column[:3], ", ")+")")
			prepare(t, db, eventstore.Mapping{Preset: "axon"}, quick())
			n := value[int](t, db, fmt.Sprintf(`
				select count(*) from (
					select %[1]s < lag(%[1]s) over (partition by %[2]s, type order by %[3]s) or %[1]s is null as wrong from %[4]s) o where wrong`,
				test.position, column[0], column[1], test.table))
			if all := value[int](t, db, "select max("+test.position+") from "+test.table); n != 0 || all != 4_000 {
				t.Errorf("%d of %d positions are wrong", n, all)
			}
		})
	}
}

// What stands in the way is said before anything is touched.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]string{
		"update domainevententry set timestamp = 'yesterday'":                                                         `"yesterday" cannot be read`,
		"create table deliveries (a varchar, s bigint, t varchar, foreign key (a, s, t) references domainevententry)": "deliveries_a_s_t_fkey",
		"alter table domainevententry add globalindex integer":                                                        "is int4; it has to be bigint",
		"alter table domainevententry alter timestamp type date using timestamp::date":                                "is date; the time has to be",
		"alter table domainevententry rename to plain; create view domainevententry as select * from plain":           "is no table",
	} {
		db := pgtest.Database(t, axon2)
		do(t, db, strings.Split(sql, "; ")...)
		p, err := eventtable.Plan(t.Context(), db, axonMapping, quick())
		if err == nil {
			_, err = p.Run(t.Context(), db)
		}
		if !errors.Is(err, eventtable.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// A time that cannot be read must not fail in the application's insert, whatever index is there.
func TestUnreadableTimes(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, axon2)
	o := quick()
	written := int64(0)
	o.Begin = func(s eventtable.Step) {
		if s.Name == stepAfterIndex {
			for i, time := range []string{"", "yesterday", "2014-02-31T10:00:00.000Z", "2014-05-06T10:11:12.123+99:99", "0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999-18:00"} {
				do(t, db, fmt.Sprintf("insert into domainevententry values ('odd', %d, 'Account', 'odd', null, '', null, 'x', '%s')", i, time))
				written++
			}
		}
	}
	if _, err := plan(t, db, axonMapping, o).Run(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	verify(t, db, written)
}

const stepAfterIndex = "fill"

// A batch finds its rows by indexes, from the place where the last one ended: not one of its scans reads the table.
func TestFillGoesByIndexes(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, axon2)
	o := quick()
	explained := ""
	o.Begin = func(s eventtable.Step) {
		if s.Name != "fill" {
			return
		}
		tx, err := db.Begin(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		defer tx.Rollback(context.WithoutCancel(t.Context()))
		_, err = tx.Exec(t.Context(), `
			select set_config(name, 'off', true)
			from unnest('{enable_seqscan,enable_bitmapscan,enable_hashjoin,enable_mergejoin}'::text[]) name`)
		if err != nil {
			t.Error(err)
			return
		}
		rows, err := tx.Query(t.Context(), "explain (costs off) "+s.SQL[0], 500, 0, 500, "2014-05-06 01:00:00")
		if err != nil {
			t.Error(err)
			return
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Error(err)
		}
		explained = strings.Join(lines, "\n")
	}
	if _, err := plan(t, db, axonMapping, o).Run(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Scan using domainevententry_globalindex_fill", "Index Cond: (CASE WHEN", "Backward using domainevententry_pkey", "Tid Scan on domainevententry",
	} {
		if !strings.Contains(explained, want) {
			t.Errorf("no %q in the plan", want)
		}
	}
	if strings.Contains(explained, "Seq Scan") || t.Failed() {
		t.Errorf("the plan is\n%s", explained)
	}
}
