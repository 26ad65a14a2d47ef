package eventtable_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/eventtable"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
)

// asApplication makes the test binary the command line of an application whose events are in a table of Axon.
const asApplication = "TEST_AS_APPLICATION"

func TestMain(m *testing.M) {
	if os.Getenv(asApplication) != "" {
		cli.Main(definition())
	}
	pgtest.Main(m)
}

// axon2 is a table as Axon 2 makes it, with 4,000 events of 100 aggregates. Half of the writers are in another zone; the clock
// of some is behind, so that events have earlier times than their predecessors; and there are many events of the same
// millisecond.
func axon2(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.PgConn().Exec(ctx, `
		create table domainevententry (
			aggregateidentifier varchar(255) not null, sequencenumber bigint not null, type varchar(255) not null,
			eventidentifier varchar(255) not null, metadata bytea, payload bytea not null, payloadrevision varchar(255),
			payloadtype varchar(255) not null, timestamp varchar(255) not null, primary key (aggregateidentifier, sequencenumber, type));
		insert into domainevententry
		select 'account-' || i % 100, i / 100, 'Account', gen_random_uuid()::text, null, convert_to('{"amount": ' || i || '}', 'UTF8'), null, 'bank.Deposited',
			case when i % 2 = 0 then to_char(at + interval '2 h', 'YYYY-MM-DD"T"HH24:MI:SS.MS') || '+02:00' else to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS.MS') || 'Z' end
		from generate_series(0, 3999) i,
			lateral (select timestamp '2014-05-06' + i / 3 * interval '7 s' - case when i % 17 = 0 then interval '1 h' else '0' end as at) t;
		create table before as select * from domainevententry`).ReadAll()
	return err
}

var axonMapping = eventstore.Mapping{Relation: "domainevententry"}

// quick are options for tests: small batches, so that there are several, and little patience.
func quick() eventtable.Options {
	return eventtable.Options{BatchSize: 500, LockWait: 30 * time.Second}
}

func plan(t *testing.T, db *pgxpool.Pool, m eventstore.Mapping, o eventtable.Options) *eventtable.Preparation {
	t.Helper()
	p, err := eventtable.Plan(t.Context(), db, m, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// prepare makes the table fit.
func prepare(t *testing.T, db *pgxpool.Pool, m eventstore.Mapping, o eventtable.Options) []string {
	t.Helper()
	taken, err := plan(t, db, m, o).Run(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range plan(t, db, m, o).Steps {
		if !s.Done && s.Name != "analyze" { // the server counts the changed rows with a delay
			t.Fatalf("%s is still to be done", s.Name)
		}
	}
	return taken
}

func do(t *testing.T, db *pgxpool.Pool, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

func value[T any](t *testing.T, db *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// application is an Axon 2 application at work: writers that append to their aggregates, old ones and new ones. It knows nothing
// of a position, may do no more than read and insert, and fails if it is held off for longer than patience.
type application struct {
	written atomic.Int64
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// patience is far above what a lock may hold off writers, for a machine with other things to do.
const patience = "5s"

func startApplication(t *testing.T, db *pgxpool.Pool) *application {
	t.Helper()
	role := "app_" + db.Config().ConnConfig.Database
	do(t, db, "create role "+role+" login", "grant select, insert on domainevententry to "+role)
	t.Cleanup(func() {
		c := context.WithoutCancel(t.Context())
		if _, err := db.Exec(c, "drop owned by "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	a := &application{stop: stop}
	for n := range 3 {
		conn, err := pgx.ConnectConfig(t.Context(), db.Config().ConnConfig)
		if err == nil {
			_, err = conn.Exec(t.Context(), "set role "+role+"; set lock_timeout = '"+patience+"'")
		}
		if err != nil {
			t.Fatal(err)
		}
		a.done.Go(func() {
			defer conn.Close(context.WithoutCancel(ctx))
			tick := time.NewTicker(10 * time.Millisecond) // as fast as they can, they are faster than any batch
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				<-tick.C
				if err := a.append(context.WithoutCancel(ctx), conn, n, i); err != nil {
					t.Errorf("writer %d: %v", n, err)
					return
				}
			}
		})
	}
	t.Cleanup(a.end)
	return a
}

// append adds events to an aggregate in one transaction, as a unit of work does.
func (a *application) append(ctx context.Context, conn *pgx.Conn, writer, i int) error {
	id := fmt.Sprintf("account-%d", 3*(i%33)+writer)
	if i%5 == 0 {
		id = fmt.Sprintf("new-%d-%d", writer, i)
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	var next int64
	err = tx.QueryRow(ctx, "select coalesce(max(sequencenumber) + 1, 0) from domainevententry where aggregateidentifier = $1 and type = 'Account'", id).Scan(&next)
	for n := range int64(1 + i%3) {
		if err == nil {
			_, err = tx.Exec(ctx, `
				insert into domainevententry (aggregateidentifier, sequencenumber, type, eventidentifier, payload, payloadtype, timestamp)
				values ($1, $2, 'Account', gen_random_uuid()::text, '{"amount": 1}', 'bank.Deposited', $3)`,
				id, next+n, time.Now().Format("2006-01-02T15:04:05.000Z07:00"))
		}
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err == nil {
		a.written.Add(int64(1 + i%3))
	}
	return err
}

// await returns when so many more events have been written.
func (a *application) await(t *testing.T, more int64) {
	t.Helper()
	target := a.written.Load() + more
	for tick := time.NewTicker(time.Millisecond); a.written.Load() < target && !t.Failed(); <-tick.C {
		if t.Context().Err() != nil {
			return
		}
	}
}

func (a *application) end() {
	a.stop()
	a.done.Wait()
}

// verify holds a table that was upgraded against what it was before.
func verify(t *testing.T, db *pgxpool.Pool, written int64) {
	t.Helper()
	all := value[int64](t, db, "select count(*) from domainevententry")
	if want := value[int64](t, db, "select count(*) from before") + written; all != want {
		t.Errorf("%d rows, want %d", all, want)
	}
	for what, sql := range map[string]string{
		"rows are not as they were": `
			select count(*) from (
				select * from before
				except all
				select aggregateidentifier, sequencenumber, type, eventidentifier, metadata, payload, payloadrevision, payloadtype, timestamp
				from domainevententry) missing`,
		"rows have no position of their own between 1 and the number of rows": `
			select count(*) from generate_series(1, (select count(*) from domainevententry)) n
			where n not in (select globalindex from domainevententry)`,
		"positions go against the sequence numbers": `
			select count(*) from (
				select globalindex < lag(globalindex) over (partition by aggregateidentifier, type order by sequencenumber) as wrong
				from domainevententry) o
			where wrong`,
		"positions go against the time": `
			select count(*) from (
				select place < lag(place) over (order by globalindex) as wrong
				from (
					select e.globalindex, min(e.timestamp::timestamptz) over (partition by aggregateidentifier, type order by sequencenumber desc) as place
					from domainevententry e join before b using (aggregateidentifier, sequencenumber, type)) p) o
			where wrong`,
	} {
		if n := value[int64](t, db, sql); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

// breakBuild lets the preparation come to the step, which builds an index, and ends its session in the middle of it: the build
// waits for a writer.
func breakBuild(t *testing.T, db *pgxpool.Pool, step string) {
	t.Helper()
	writer, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback(context.WithoutCancel(t.Context()))
	o := quick()
	ended := make(chan error, 1)
	o.Begin = func(s eventtable.Step) {
		if s.Name != step {
			return
		}
		if _, err := writer.Exec(t.Context(), "lock table domainevententry in row exclusive mode"); err != nil {
			t.Error(err)
		}
		go func() {
			var done bool
			var err error
			for tick := time.NewTicker(5 * time.Millisecond); err == nil && !done; <-tick.C {
				err = db.QueryRow(t.Context(), `
					select coalesce(bool_or(pg_terminate_backend(l.pid, 10000)), false)
					from pg_locks l
					join pg_stat_activity a on a.pid = l.pid
					where l.locktype = 'virtualxid' and not l.granted and a.query like 'create%index concurrently%' and a.datname = current_database()`).Scan(&done)
			}
			ended <- err
		}()
	}
	if _, err := plan(t, db, axonMapping, o).Run(t.Context(), db); !pg.IsConnectionLost(err) {
		t.Fatalf("%s: %v", step, err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
