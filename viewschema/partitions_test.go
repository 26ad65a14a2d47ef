package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// partitionedViews are the bank's tables, with names for partitions in both of the ways in which one would make them, and by a loop.
var partitionedViews = fstest.MapFS{
	"accounts.sql": {Data: []byte(`
		create table accounts%SUFFIX% (id uuid not null, owner text not null, balance bigint not null constraint accounts%SUFFIX%_odd check (balance <> -1)) partition by hash (id);
		create table accounts_p0%SUFFIX% partition of accounts%SUFFIX% for values with (modulus 2, remainder 0) with (fillfactor = 90);
		create table accounts_p1%SUFFIX% partition of accounts%SUFFIX% for values with (modulus 2, remainder 1) partition by list (owner);
		create table accounts_p1_ada%SUFFIX% partition of accounts_p1%SUFFIX% for values in ('Ada');
		create table accounts_p1_rest%SUFFIX% partition of accounts_p1%SUFFIX% default`)},
	"accounts.indexes.sql": {Data: []byte("create index accounts%SUFFIX%_by_id on accounts%SUFFIX% (id)")},
	"transactions.sql": {Data: []byte(`
		create table transactions%SUFFIX% (
			event_id bigint not null, account_id uuid not null, seq bigint not null, kind text not null, amount bigint not null, balance bigint not null,
			description text not null, at timestamptz not null, number bigserial
		) partition by range (event_id);
		create table transactions%SUFFIX%_rest partition of transactions%SUFFIX% default;
		do $$begin
			for i in 0..2 loop
				execute format('create table transactions%SUFFIX%_%s partition of transactions%SUFFIX% for values from (%s) to (%s)', 'from' || i * 1000, i * 1000, i * 1000 + 1000);
			end loop;
		end$$`)},
	"transactions.indexes.sql": {Data: []byte(`
		alter table transactions%SUFFIX% add constraint transactions%SUFFIX%_pkey primary key (event_id);
		create unique index transactions%SUFFIX%_account on transactions%SUFFIX% (account_id, seq, event_id)`)},
}

// partitionedBank has versions in which nothing changes but the tables.
func partitionedBank(versions int) viewschema.Definition {
	d := sameAgain(versions)
	d.Views = partitionedViews
	return d
}

func atPartitionedVersion1(ctx context.Context, conn *pgx.Conn) error {
	return goLive(ctx, conn, partitionedBank(1))
}

// named lists the tables, indexes and sequences of the view schema, those of the bookkeeping apart.
func named(t *testing.T, db *pgxpool.Pool) []string {
	t.Helper()
	return scalar[[]string](t, db, `
		select array_agg(relname::text order by relname)
		from pg_class
		where relnamespace = 'view_schema'::regnamespace and relname !~ '^(projector_|at_)'`)
}

// Partitions change their names with their tables, and so does what is named after them, back and forth, while writers append and project.
// An abort drops those that were built, and a clean-up those that were archived. Seen to fail without partitions in Schema.parts: the names are taken.
func TestPartitionedViewTables(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atPartitionedVersion1)
	live := named(t, db)
	for _, name := range []string{"accounts_p0", "accounts_p0_id_idx", "accounts_p1_rest", "transactions_from1000", "transactions_from1000_pkey", "transactions_number_seq"} {
		if !slices.Contains(live, name) {
			t.Errorf("there is no %s, but %q", name, live)
		}
	}
	suffixed := func(of []string, suffix string) []string {
		return slices.DeleteFunc(slices.Clone(of), func(name string) bool { return !strings.Contains(name, suffix) })
	}
	if old := suffixed(live, "_1_"); len(old) > 0 {
		t.Errorf("these have kept a name that they had before: %q", old)
	}

	second := open(t, db, partitionedBank(2))
	stop := writers(t, db, 2, rand.Uint64(), partitionedBank(1), partitionedBank(2), partitionedBank(1))
	online(t, second)
	if _, err := second.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := named(t, db); !slices.Equal(now, live) {
		t.Errorf("after an abort there are %q, and there were %q", now, live)
	}
	online(t, second)
	offline(t, second)
	now := named(t, db)
	archived := suffixed(now, "_1")
	if rest := slices.DeleteFunc(now, func(name string) bool { return slices.Contains(archived, name) }); !slices.Equal(rest, live) || len(archived) != len(live) {
		t.Errorf("live are %q, were %q; archived are %q", rest, live, archived)
	}
	rollBack(t, open(t, db, partitionedBank(1)))
	stop()
	verify(t, db, 1)
	rest := slices.DeleteFunc(named(t, db), func(name string) bool { return strings.Contains(name, "_2") })
	if !slices.Equal(rest, live) {
		t.Errorf("after a rollback, live are %q, and were %q", rest, live)
	}

	tables, err := second.ArchivedTables(t.Context(), 0)
	if err != nil || len(tables) != 2 || len(tables[0].Partitions) != 4 || !slices.Contains(tables[0].Partitions, "view_schema.accounts_2_p1_rest") || tables[0].Bytes == 0 {
		t.Fatalf("archived are %+v, %v", tables, err)
	}
	mustExec(t, db, "create view public.before as select * from view_schema.accounts_2_p1_rest")
	if tables, err = second.ArchivedTables(t.Context(), 0); err != nil || len(tables[0].Dependents) != 1 {
		t.Errorf("archived are %+v, %v", tables, err)
	}
	mustExec(t, db, "drop view public.before")
	tables[0].Dependents = nil
	if dropped, err := second.Clean(t.Context(), tables); err != nil || len(dropped) != 2 {
		t.Fatalf("dropped are %+v, %v", dropped, err)
	}
	if now := named(t, db); !slices.Equal(now, live) {
		t.Errorf("after a clean-up there are %q, and there were %q", now, live)
	}
	st, err := second.Status(t.Context())
	if err != nil || len(st.Tables) != 2 || st.Tables[0].Partitions != 3 || st.Tables[1].Partitions != 4 || st.Tables[0].Bytes == 0 {
		t.Errorf("the status has %+v, %v", st.Tables, err)
	}
}

// A partitioned table takes the place of one that is not, and the other way round.
func TestTableIsPartitionedByAVersion(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	mustExec(t, db, "create table notes (account uuid references view_schema.accounts, movement bigint references view_schema.transactions)")
	stop := writers(t, db, 1, rand.Uint64(), sameAgain(1), partitionedBank(2), sameAgain(3))
	keyed := maps.Clone(partitionedViews)
	keyed["accounts.indexes.sql"] = &fstest.MapFile{Data: []byte("alter table accounts%SUFFIX% add constraint accounts%SUFFIX%_pkey primary key (id)")}
	keyed["accounts.sql"] = &fstest.MapFile{Data: []byte(`
		create table accounts%SUFFIX% (id uuid not null, owner text not null, balance bigint not null) partition by hash (id);
		create table accounts_p0%SUFFIX% partition of accounts%SUFFIX% for values with (modulus 2, remainder 0);
		create table accounts_p1%SUFFIX% partition of accounts%SUFFIX% for values with (modulus 2, remainder 1)`)}
	second := partitionedBank(2)
	second.Views = keyed
	for _, d := range []viewschema.Definition{second, sameAgain(3)} {
		s := open(t, db, d)
		online(t, s)
		offline(t, s)
	}
	stop()
	verify(t, db, 1)
	rollBack(t, open(t, db, second))
	verify(t, db, 1)
	if n := scalar[int](t, db, "select count(*) from pg_constraint where conrelid = 'notes'::regclass and confrelid in ('view_schema.accounts'::regclass, 'view_schema.transactions'::regclass) and convalidated"); n != 2 {
		t.Errorf("%d of the foreign keys reference the live tables", n)
	}
}

// What hangs on a partition hangs on the one that takes its place. Seen to fail with places of view tables alone.
func TestNothingIsLeftBehindOnPartitions(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atPartitionedVersion1)
	mustExec(t, db, roles(t, db, "CLERK", "KEEPER").Replace(`
		create schema reports;
		create table reports.log (what text);
		create function reports.note() returns trigger language plpgsql as $$begin insert into reports.log values (tg_name); return new; end$$;
		grant usage on schema view_schema to CLERK;
		grant create, usage on schema view_schema to KEEPER;
		comment on table view_schema.accounts is 'all';
		comment on table view_schema.accounts_p0 is 'some';
		comment on column view_schema.accounts_p0.owner is 'whose';
		comment on index view_schema.accounts_p0_id_idx is 'by id';
		alter table view_schema.accounts alter column owner set statistics 300;
		alter table view_schema.accounts_p0 alter column owner set statistics 500;
		alter table view_schema.accounts_p0 set (autovacuum_vacuum_scale_factor = 0.01);
		alter table view_schema.accounts_p1_ada cluster on accounts_p1_ada_id_idx;
		alter table view_schema.transactions_rest replica identity full;
		create statistics view_schema.accounts_p0_owners on owner, balance from view_schema.accounts_p0;
		grant select on view_schema.accounts to CLERK;
		grant select (id) on view_schema.accounts_p0 to CLERK;
		alter table view_schema.accounts_p1_ada owner to KEEPER;
		alter table view_schema.accounts_p0 enable row level security;
		create policy small on view_schema.accounts_p0 for select to CLERK using (balance < 100);
		alter table view_schema.accounts enable row level security;
		create policy large on view_schema.accounts for select to CLERK using (balance > 100);
		create trigger everywhere after insert on view_schema.accounts for each row when (new.balance < -5) execute function reports.note();
		create trigger there after insert on view_schema.accounts_p0 for each row when (new.balance < -5) execute function reports.note();
		create view reports.some as select id from view_schema.accounts_p0;
		create view reports.both as select a.id from view_schema.accounts a join view_schema.accounts_p1_rest r on r.id = a.id;
		create publication part for table view_schema.transactions_from1000;
		create publication whole for table view_schema.transactions with (publish_via_partition_root);
		create table reports.notes (movement bigint constraint of_what references view_schema.transactions);
		insert into reports.notes select event_id from view_schema.transactions;
		create table reports.of_some (movement bigint constraint of_some references view_schema.transactions_from1000)`))
	before := describe(t, db)
	for version := 2; version <= 3; version++ {
		s := open(t, db, partitionedBank(version))
		online(t, s)
		if r := offline(t, s); len(r.Remaining) > 0 {
			t.Errorf("left to do: %+v", r.Remaining)
		}
		if after := describe(t, db); after != before {
			t.Errorf("at version %d:\n%s\nbefore:\n%s", version, after, before)
		}
	}
	rollBack(t, open(t, db, partitionedBank(2)))
	if after := describe(t, db); after != before {
		t.Errorf("after a rollback:\n%s\nbefore:\n%s", after, before)
	}
	verify(t, db, 1)
	mustExec(t, db, "drop table view_schema.accounts_1, view_schema.accounts_3, view_schema.transactions_1, view_schema.transactions_3")
}

// A partition that was added by hand is told of before it is missed, goes with its table, and comes back with it.
func TestPartitionThatWasAddedByHand(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atPartitionedVersion1)
	mustExec(t, db, roles(t, db, "CLERK").Replace(`
		create table view_schema.bob partition of view_schema.accounts_p1 for values in ('Bob');
		create index bob_index on view_schema.bob (balance);
		grant select on view_schema.bob to CLERK`))
	s := open(t, db, partitionedBank(2))
	online(t, s)
	const want = "partition view_schema.bob of view_schema.accounts_p1, FOR VALUES IN ('Bob'), is not of the new table; if it is needed, add to accounts.sql: " +
		"create table bob%SUFFIX% partition of accounts_p1%SUFFIX% FOR VALUES IN ('Bob'); " +
		`and as that is built already, type: create table "view_schema"."bob_2" partition of "view_schema"."accounts_p1_2" FOR VALUES IN ('Bob')`
	const grants = "grants on partition view_schema.bob of view_schema.accounts_p1 go to no partition of the new table, and a rollback takes them away; " +
		"if they are needed, grant on the table"
	if got := hazards(t, s); len(got) != 2 || !strings.HasSuffix(got[0], want) || !strings.HasSuffix(got[1], grants) {
		t.Errorf("got  %q\nwant %q and %q", got, want, grants)
	}
	mustExec(t, db, `
		create table "view_schema"."bob_2" partition of "view_schema"."accounts_p1_2" FOR VALUES IN ('Bob');
		create table view_schema.eve partition of view_schema.accounts_p1 for values in ('Eve')`)
	offline(t, s)
	verify(t, db, 1)
	names := func() []string {
		return scalar[[]string](t, db, "select array_agg(relid::text order by relid::text) from pg_partition_tree('view_schema.accounts_p1') where isleaf")
	}
	if got := names(); !slices.Equal(got, []string{"view_schema.accounts_p1_ada", "view_schema.accounts_p1_rest", "view_schema.bob"}) {
		t.Errorf("the partitions are %q", got)
	}
	rollBack(t, open(t, db, partitionedBank(1)))
	if got := names(); !slices.Equal(got, []string{"view_schema.accounts_p1_ada", "view_schema.accounts_p1_rest", "view_schema.bob", "view_schema.eve"}) {
		t.Errorf("the partitions are %q", got)
	}
	verify(t, db, 1)
}

// A partition that was detached keeps its name, which the new one needs: that is found before anything is locked.
func TestNameOfAPartitionThatIsTaken(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atPartitionedVersion1)
	mustExec(t, db, "alter table view_schema.transactions detach partition view_schema.transactions_from2000; create view view_schema.accounts_1_p0 as select 1")
	s := open(t, db, partitionedBank(2))
	online(t, s)
	_, err := s.MigrateOffline(t.Context())
	for _, want := range []string{
		`new partition transactions_2_from2000 needs the name "view_schema"."transactions_from2000" in the cutover, which exists, and is no partition of a view table; rename or drop it`,
		`the archived partition accounts_p0 needs the name "view_schema"."accounts_1_p0" in the cutover`,
	} {
		if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	mustExec(t, db, "drop table view_schema.transactions_from2000; drop view view_schema.accounts_1_p0")
	offline(t, s)
	verify(t, db, 1)
}

// Whatever hangs on a partition of a table that goes is named; the partitions themselves go with it, and come back.
func TestDroppedTableTakesItsPartitions(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atPartitionedVersion1)
	d := partitionedBank(1)
	d.Projectors = []*projections.Projector{v1.Accounts}
	d.Versions = projector.Versions{1: {projector.Replay(v1.Accounts)}, 2: {projector.Drop(projector.Named("transactions"))}}
	mustExec(t, db, "create view v as select amount from view_schema.transactions_rest")
	s := open(t, db, d)
	online(t, s)
	want := "view public.v would stay behind with the archived table transactions_1_rest; drop it before the cutover (drop view public.v) and create it again after"
	if _, err := s.MigrateOffline(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.HasSuffix(err.Error(), "refused: "+want) {
		t.Errorf("got %v", err)
	}
	mustExec(t, db, "drop view v")
	offline(t, s)
	if got := named(t, db); !slices.Contains(got, "transactions_1_rest") || slices.Contains(got, "transactions_rest") {
		t.Errorf("there are %q", got)
	}
}

// Tables that are made anew in development are partitioned like others.
func TestReplayChangedWithPartitions(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atPartitionedVersion1)
	live := named(t, db)
	s := open(t, db, partitionedBank(1))
	for _, code := range []string{"1", "2"} {
		if _, err := s.ReplayChanged(t.Context(), code); err != nil {
			t.Fatal(err)
		}
		if got := named(t, db); !slices.Equal(got, live) {
			t.Errorf("there are %q, and there were %q", got, live)
		}
	}
	if _, err := s.ReplayAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	verify(t, db, 1)
}

// Roles that may not read the live table may not read the partitions of the new one, whatever they are given by default.
func TestDefaultPrivilegesOnPartitions(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atPartitionedVersion1)
	mustExec(t, db, roles(t, db, "CLERK").Replace("alter default privileges in schema view_schema grant select on tables to CLERK"))
	granted := func() int {
		return scalar[int](t, db, `
			select count(*)
			from pg_class c, aclexplode(c.relacl) a
			where c.relnamespace = 'view_schema'::regnamespace and c.relname ~ '^(accounts|transactions)' and a.grantee <> c.relowner`)
	}
	s := open(t, db, partitionedBank(2))
	online(t, s)
	if n := granted(); n != 0 {
		t.Errorf("%d rights are granted while the tables are built", n)
	}
	offline(t, s)
	if n := granted(); n != 0 {
		t.Errorf("%d rights are granted after the cutover", n)
	}
}

// partitionedStore is a database with the bank's events, by range of positions, and with its first release live.
func partitionedStore(ctx context.Context, conn *pgx.Conn) error {
	if err := atVersion1(ctx, conn); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `
		drop schema view_schema cascade;
		alter table events rename to plain;
		create sequence positions start 2;
		create table events (
			position bigint not null default nextval('positions') primary key, aggregate_id uuid not null, sequence_number bigint not null, event_type text not null,
			data jsonb not null, created_at timestamptz not null default now()
		) partition by range (position);
		create table events_0 partition of events for values from (2) to (10002);
		insert into events select nextval('positions'), aggregate_id, sequence_number, event_type, data, created_at from plain order by position;
		drop table plain;
		create table events_1 partition of events for values from (10002) to (1000000)`)
	return err
}

// A partition that is added empty is no matter. One that brings events which are below the cut, and for which nobody has waited, keeps the
// migration from going on, and does not if it is taken away again. Seen to lose the event without checkAttached, in the catch-up and in Finish.
func TestPartitionIsAttachedWithEvents(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, partitionedStore)
	first := open(t, db, v1.Definition)
	online(t, first)
	offline(t, first)
	second := open(t, db, sameAgain(2))
	online(t, second)
	const opened = `(position, aggregate_id, sequence_number, event_type, data)
		values (%s, gen_random_uuid(), 1, 'AccountOpened', '{"owner_name": "Ada", "iban": "NL00", "currency": "EUR", "branch": "Gent"}');`
	mustExec(t, db, "create table events_2 partition of events for values from (1000000) to (2000000); insert into events "+fmt.Sprintf(opened, "nextval('positions')"))
	if _, err := second.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "create table early (like events including all); insert into early "+fmt.Sprintf(opened, "1"))
	const attach, detach = "alter table events attach partition early for values from (0) to (2)", "alter table events detach partition early"
	mustExec(t, db, attach+"; insert into events "+fmt.Sprintf(opened, "nextval('positions')"))
	const want = "table public.early has come to the event table since all events up to position 10002 were replayed"
	if _, err := second.CatchUp(t.Context()); !errors.Is(err, replay.ErrAttached) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	mustExec(t, db, detach)
	if _, err := second.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	var attached sync.Once // after the catch-up that comes before the cutover
	ctx := pg.WithFault(t.Context(), func(m pg.Moment, p pg.Point) {
		if m == pg.After && p == pg.PointCut {
			attached.Do(func() { mustExec(t, db, attach) })
		}
	})
	if _, err := second.MigrateOffline(ctx); !errors.Is(err, replay.ErrAttached) {
		t.Errorf("got %v", err)
	}
	mustExec(t, db, detach)
	offline(t, second)
	mustExec(t, db, attach)
	if _, err := first.Rollback(t.Context()); !errors.Is(err, replay.ErrAttached) {
		t.Errorf("got %v", err)
	}
	mustExec(t, db, detach)
	rollBack(t, first)
}
