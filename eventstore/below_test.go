package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/viewschema/projector/eventstore"
)

// below are event tables that have their rows in other tables, a of which has those of aggregate a.
var below = map[string]string{
	"by list": `create table events (%s) partition by list (aggregate_id);
		create table a partition of events for values in ('a'); create table rest partition of events default`,
	"by range of ids, and by hash in it": `create table events (%s) partition by range (aggregate_id);
		create table low partition of events for values from (minvalue) to ('b') partition by hash (aggregate_id);
		create table a partition of low for values with (modulus 1, remainder 0); create table rest partition of events default`,
	"by range of positions": `create table events (%s) partition by range (position);
		create table a partition of events for values from (0) to (1000); create table rest partition of events default`,
	"by range of time": `create table events (%s) partition by range (at);
		create table a partition of events default`,
	"by inheritance": "create table events (%s); create table a () inherits (events)",
}

const belowColumns = `position bigint not null default nextval('positions'), aggregate_id text not null, sequence_number int not null, event_type text not null,
	data jsonb not null default '{}', at timestamptz not null default now()`

// A cut waits for those who write into a table below the event table by its name, and so does a cutover. They are named, also if they have
// locked it against everybody: to look for them takes no lock. Seen to fail with pg_partition_tree, which takes one.
func TestWritersOfTheTablesBelow(t *testing.T) {
	t.Parallel()
	for kind, sql := range below {
		for what, writes := range map[string]string{
			"insert": "insert into a (aggregate_id, sequence_number, event_type, position) values ('a', 2, 'Opened', 1)",
			"lock":   "lock table a in access exclusive mode",
		} {
			t.Run(kind+", "+what, func(t *testing.T) {
				t.Parallel()
				db := store(t, "create sequence positions", fmt.Sprintf(sql, belowColumns),
					"insert into a (aggregate_id, sequence_number, event_type) values ('a', 1, 'Opened')")
				r := reader(t, db, eventstore.Mapping{})
				if cut, err := r.Settle(t.Context(), db, eventstore.Wait{}); err != nil || cut.Position != 1 || cut.Reason != "" {
					t.Fatalf("cut %+v, %v", cut, err)
				}
				conn, err := db.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Release()
				if _, err := conn.Exec(t.Context(), "begin; "+writes); err != nil {
					t.Fatal(err)
				}
				pid := fmt.Sprintf("pid %d ", conn.Conn().PgConn().PID())
				tx, err := db.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
				if _, err := tx.Exec(t.Context(), "set local lock_timeout = '50ms'"); err != nil {
					t.Fatal(err)
				}
				for name, look := range map[string]func() (string, error){
					"writers":  func() (string, error) { return r.Writers(t.Context(), tx) },
					"blockers": func() (string, error) { return r.Blockers(t.Context(), tx) },
				} {
					if found, err := look(); err != nil || !strings.HasPrefix(found, pid) {
						t.Errorf("the %s are %q, %v", name, found, err)
					}
				}
				if err := r.HoldWriters(t.Context(), tx); err == nil {
					t.Error("writers were held off, and one was at work")
				}
				if what == "insert" { // to read the highest position has to wait for the lock
					_, err := r.Settle(t.Context(), db, eventstore.Wait{Limit: time.Second})
					if !errors.Is(err, eventstore.ErrUnsettled) || !strings.Contains(err.Error(), pid) {
						t.Errorf("the cut did not wait: %v", err)
					}
				}
				if _, err := conn.Exec(t.Context(), "rollback"); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}
