package viewschema_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// A time-out that is meant for an application's transactions does not end a batch.
func TestTransactionTimeout(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	if !scalar[bool](t, db, "select current_setting('transaction_timeout', true) is not null") {
		t.Skip("this server has no transaction_timeout; PostgreSQL 17 and later have")
	}
	mustExec(t, db, `do $$ begin execute format('alter database %I set transaction_timeout = ''1s''', current_database()); end $$`)
	var once sync.Once
	w := &watcher{before: func(sql string) {
		if strings.Contains(sql, "set events = $3") { // a batch is about to be marked as done; with the time-out, its session is gone
			once.Do(func() {
				await(t, db, `
					select not exists (
						select from pg_stat_activity
						where datname = current_database() and state = 'idle in transaction' and xact_start > clock_timestamp() - interval '1.5 s')`)
			})
		}
	}}
	s := watched(t, db, version2(), viewschema.Options{}, w)
	online(t, s)
	if log := w.log(); strings.Contains(log, "trying the transaction again") {
		t.Error(log)
	}
}

// A cutover whose process gets no processor for so long that the server ends its session, lest it hold off writers, begins anew.
func TestCutoverThatHung(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	var once sync.Once
	s := watched(t, db, version2(), viewschema.Options{}, &watcher{before: func(sql string) {
		if strings.Contains(sql, "set state = 'archived' where state = 'active'") {
			once.Do(func() {
				await(t, db, "select not exists (select from pg_stat_activity where datname = current_database() and state = 'idle in transaction')")
			})
		}
	}})
	online(t, s)
	offline(t, s)
	verify(t, db, 2)
}

// A time-out that is meant for an application's statements does not end those that look through a large event table to begin with.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	mustExec(t, db, `
		do $$ begin execute format('alter database %I set statement_timeout = ''1s''', current_database()); end $$;
		create view slow_events as select e.* from events e where position % 5000 <> 0 or pg_sleep(0.6) is not null`)
	db.Reset()
	d := byAggregate()
	d.Source.Relation = "slow_events"
	if _, err := open(t, db, d).Plan(t.Context()); err != nil {
		t.Error(err)
	}
}
