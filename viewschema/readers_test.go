package viewschema_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
)

// compared holds the view table against the events that the same statement sees: the rows' number, the sum of a column that
// both shapes have, and whether all rows are of one shape. It also tells which shape that is.
const compared = `
	with expected as (
		select sum(case
			when event_type in ('MoneyDeposited', 'TransferReceived') then (data ->> 'amount')::bigint
			when event_type in ('MoneyWithdrawn', 'TransferSent') then -(data ->> 'amount')::bigint
			else 0 end) as balance
		from events
		group by aggregate_id
		having not bool_or(event_type = 'AccountClosed')
	)
	select a.rows = e.rows and a.balance = e.balance and a.new in (0, a.rows), a.new > 0
	from (select count(id) as rows, sum(balance) as balance, count(*) filter (where to_jsonb(v) ? 'iban') as new from view_schema.accounts v) a,
		(select count(*) as rows, sum(balance) as balance from expected) e`

// page has columns that both versions have: a prepared statement for it outlives the cutover.
const page = "select id, owner, balance from view_schema.accounts order by id limit 3"

// Every way to read, in READ COMMITTED, sees the old table before the cutover and the new one after it: no error, no mix
// and nothing missing, while writers append and project. Seen to fail with the last events left out of the cutover (rows
// missing), and with a commit after the archiving of the old table (42P01).
func TestReadersAcrossTheCutover(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	mustExec(t, db, "create function compared() returns table (same boolean, new boolean) language plpgsql as $$ begin return query "+compared+"; end $$")
	mustExec(t, db, "create function page() returns setof text language plpgsql as $$ declare r record; begin for r in "+page+" loop return next r.owner; end loop; end $$")
	mustExec(t, db, "create view paged as "+page)
	s := open(t, db, version2())
	online(t, s)
	stop := writers(t, db, 2, rand.Uint64(), v1.Definition, version2())
	var began, ended sync.WaitGroup
	for _, r := range []reader{
		{name: "simple", mode: pgx.QueryExecModeSimpleProtocol, compared: compared, page: page},
		{name: "prepared", mode: pgx.QueryExecModeCacheStatement, compared: compared, page: page},
		{name: "described", mode: pgx.QueryExecModeCacheDescribe, compared: compared, page: page},
		{name: "plpgsql", mode: pgx.QueryExecModeCacheStatement, compared: "select * from compared()", page: "select page()"},
		{name: "view", mode: pgx.QueryExecModeCacheStatement, compared: compared, page: "table paged"},
	} {
		began.Add(1)
		ended.Go(func() {
			if err := r.read(t.Context(), db, began.Done); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		})
	}
	began.Wait()
	r, err := s.MigrateOffline(t.Context())
	if err != nil {
		t.Error(err)
	}
	ended.Wait()
	t.Logf("writers were held off for %s", r.HeldOff)
	for i, w := range stop() {
		t.Logf("writer %d: %d events, longest gap between two commits %s", i, w.Events, w.LongestGap)
	}
	verify(t, db, 2)
}

type reader struct {
	name           string
	mode           pgx.QueryExecMode
	compared, page string
}

// read goes on until it has seen the new table some times. It calls began when it has seen the old one.
func (r reader) read(ctx context.Context, db *pgxpool.Pool, began func()) error {
	began = sync.OnceFunc(began)
	defer began()
	conn, err := db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for olds, news := 0, 0; news < 5; {
		var same, isNew bool
		if err := conn.QueryRow(ctx, r.compared, r.mode).Scan(&same, &isNew); err != nil {
			return err
		}
		switch {
		case !same:
			return fmt.Errorf("rows and events of one statement differ (new table: %t)", isNew)
		case isNew:
			news++
		case news > 0:
			return fmt.Errorf("the old table came back")
		default:
			if olds++; olds == 3 {
				began()
			}
		}
		rows, err := conn.Query(ctx, r.page, r.mode)
		if err != nil {
			return err
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
	}
	return nil
}
