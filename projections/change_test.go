package projections_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/projections"
)

// What a batch needs of a table is found by the key, and all of the rest is left alone: when it is loaded, and when it is stored.
func TestBatchReadsNoOtherRows(t *testing.T) {
	t.Parallel()
	changeMany(t, "", func(tx pgx.Tx, step string) {
		var scans, cost string
		err := tx.QueryRow(t.Context(), `
			select seq_scan, current_setting('random_page_cost')
			from pg_stat_xact_user_tables where relname = 'accounts'`).Scan(&scans, &cost)
		if err != nil || scans != "0" || cost != "3" {
			t.Errorf("%s: %s scans, random_page_cost %s, %v", step, scans, cost, err)
		}
	})
}

// Without an index on its key, a table is read whole: once for all rows that change, and not for each of them.
func TestBatchWithoutIndexReadsTableOnce(t *testing.T) {
	t.Parallel()
	scans := map[string]int{}
	changeMany(t, "alter table accounts drop constraint accounts_pkey", func(tx pgx.Tx, step string) {
		var n int
		if err := tx.QueryRow(t.Context(), "select seq_scan from pg_stat_xact_user_tables where relname = 'accounts'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		scans[step] = n
	})
	if n := scans["stored"] - scans["loaded"]; n < 2 || n > 3 { // to delete, to update, and what is compared before
		t.Errorf("the table is read %d times to delete rows and to update others", n)
	}
}

// A column that the application does not write may have a type without a binary form.
func TestBatchLeavesTextOnlyColumnAlone(t *testing.T) {
	t.Parallel()
	changeMany(t, "alter table accounts add granted aclitem default 'postgres=r/postgres'", func(tx pgx.Tx, step string) {
		var without int
		if err := tx.QueryRow(t.Context(), "select count(*) from accounts where granted is null").Scan(&without); err != nil || without > 0 {
			t.Errorf("%s: %d rows without, %v", step, without, err)
		}
	})
}

// Each row is deleted as if it were the only one, where that may make a difference.
func TestBatchDeletesRowByRow(t *testing.T) {
	t.Parallel()
	const touch = `
		create function touch() returns trigger language plpgsql as $$
		begin
			update accounts set balance = balance + 1 where id in (select id from accounts where id > old.id order by id limit 2);
			return old;
		end $$;`
	for name, alter := range map[string]string{
		"a trigger that changes rows which go next": touch + `
			create trigger touch before delete on accounts for each row execute function touch()`,
		"a trigger of a child": touch + `
			create table old_accounts (primary key (id)) inherits (accounts);
			with moved as (delete from accounts returning *) insert into old_accounts select * from moved;
			analyze old_accounts;
			create trigger touch before delete on old_accounts for each row execute function touch()`,
		"a rule": `
			alter table accounts drop constraint accounts_pkey;
			create index on accounts (id);
			create table closed (id uuid primary key);
			create rule closed as on delete to accounts do also insert into closed values (old.id)`,
		"a domain that refuses what is stored": `
			create domain owner_name as text;
			alter table accounts alter owner type owner_name;
			alter domain owner_name add check (value <> 'Ada') not valid`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changeMany(t, alter, func(pgx.Tx, string) {})
		})
	}
}

// One large row does not make room for as many of its size as there are rows. It is not parallel, to count what only it allocates.
func TestBatchWithOneLargeRow(t *testing.T) {
	var before, after runtime.MemStats
	changeMany(t, "update accounts set owner = repeat('x', 4000000) where id = (select id from accounts order by id offset 1 limit 1)", func(_ pgx.Tx, step string) {
		if step == "loaded" {
			runtime.ReadMemStats(&before)
		} else {
			runtime.ReadMemStats(&after)
		}
	})
	if n := after.TotalAlloc - before.TotalAlloc; n > 100e6 {
		t.Errorf("storing the rows allocates %d MB", n/1e6)
	}
}

// changeMany closes and renames 500 of 20,000 accounts in one batch, half of them each, and lets look at its transaction after each step.
func changeMany(t *testing.T, alter string, look func(tx pgx.Tx, step string)) {
	t.Helper()
	pool, set := bank(t)
	_, err := pool.Exec(t.Context(), `
		insert into accounts select md5(i::text)::uuid, 'Ada', i, 0, 1 from generate_series(1, 20000) i;
		analyze accounts;
		`+alter)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Query(t.Context(), "select id from accounts order by id limit 500")
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	var ids []projections.ID
	for _, id := range accounts {
		ids = append(ids, projections.UUID(id))
	}
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "set local random_page_cost = 3"); err != nil {
			return err
		}
		run := set.CatchUp()
		if err := run.Begin(t.Context(), tx, ids); err != nil {
			return err
		}
		for i, id := range accounts {
			e := ev(int64(i+1), id, 2, "AccountRenamed", `{"owner_name":"Bob"}`)
			if i%2 == 1 {
				e = ev(int64(i+1), id, 2, "AccountClosed", `{}`)
			}
			if err := run.Apply(e); err != nil {
				return err
			}
		}
		look(tx, "loaded")
		if rows, err := run.Flush(); err != nil || rows != 500 {
			return fmt.Errorf("%d rows: %w", rows, err)
		}
		look(tx, "stored")
		var closed, renamed int
		err := tx.QueryRow(t.Context(), "select 20000 - count(*), count(*) filter (where owner = 'Bob') from accounts").Scan(&closed, &renamed)
		if err != nil || closed != 250 || renamed != 250 {
			t.Errorf("%d accounts are closed and %d are renamed, %v", closed, renamed, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
