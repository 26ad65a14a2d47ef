package viewschema_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// standby has the server stream to it. The returned function says to the server that it has replayed what was there at first, and no
// more; a standby says so again and again.
func standby(t *testing.T, db *pgxpool.Pool) (report func()) {
	t.Helper()
	// Streaming from what is written and not flushed is refused.
	at := scalar[int64](t, db, "select pg_current_wal_flush_lsn() - '0/0'::pg_lsn")
	config, err := pgconn.ParseConfig(db.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "true"
	config.RuntimeParams["application_name"] = "standby of a test"
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Conn().Close() }) // the server would rather stream on than say good-bye
	conn.Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION PHYSICAL " + scalar[string](t, db, "select ('0/0'::pg_lsn + $1)::text", at)})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	m, err := conn.ReceiveMessage(t.Context())
	if _, streams := m.(*pgproto3.CopyBothResponse); err != nil || !streams {
		t.Fatalf("%#v, %v", m, err)
	}
	status := []byte{'r'} // standby status update: written, flushed and replayed, by which clock, no reply
	for range 3 {
		status = binary.BigEndian.AppendUint64(status, uint64(at))
	}
	status = binary.BigEndian.AppendUint64(status, uint64(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()))
	return func() {
		t.Helper()
		conn.Frontend().Send(&pgproto3.CopyData{Data: append(status, 0)})
		if err := conn.Frontend().Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

// How far standbys are behind is told, and not told to a role that may not see it.
func TestOverviewReplication(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	report := standby(t, db)
	mustExec(t, db, "create table public.written as select generate_series(1, 10000)")
	var o *viewschema.Overview
	for began := time.Now(); ; {
		report()
		if o = overview(t, db, v1.Definition); o.Replication.Bytes != nil && *o.Replication.Bytes > 100_000 {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("%+v, %s", o.Replication, scalar[string](t, db, "select json_agg(r)::text from pg_stat_replication r"))
		}
	}
	if o.Replication.Standbys < 1 {
		t.Errorf("%+v", o.Replication)
	}

	role := fmt.Sprintf("onlooker_%d", rand.Uint64())
	mustExec(t, db, "create role "+role+" login; grant usage on schema view_schema to "+role+"; grant select on all tables in schema view_schema, public to "+role)
	t.Cleanup(func() {
		if _, err := db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	theirs := connecting(t, db, func(c *pgx.ConnConfig) { c.User = role })
	_, end := hold(t, db, "lock table events in row exclusive mode")
	o = overview(t, theirs, v1.Definition)
	if r := o.Replication; r.Standbys < 1 || r.Bytes != nil || r.Seconds != nil {
		t.Errorf("to a role that may not see it: %+v", r)
	}
	if o.InTheWay == nil || o.InTheWay.PID == 0 || o.InTheWay.Since != nil || o.InTheWay.State != "" {
		t.Errorf("in the way, to a role that may not see it: %+v", o.InTheWay)
	}
	end()
}
