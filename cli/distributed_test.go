package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// spread is a bank whose events and view tables one table each does not hold.
type spread struct {
	url    string
	events string // follows the definition of the event table
	views  fstest.MapFS
}

// The bank's events and view tables, by aggregate: partitioned, which stands in for a cluster, and distributed over a cluster of Citus, which
// PROJECTOR_CITUS_URL names, the coordinator's empty database: make test-citus DATABASE_URL=postgres://…
func TestDistributed(t *testing.T) {
	t.Parallel()
	t.Run("partitioned", func(t *testing.T) {
		t.Parallel()
		partitions := func(table string) (sql string) {
			for i := range 3 {
				sql += fmt.Sprintf("create table %s_p%d partition of %[1]s for values with (modulus 3, remainder %[2]d);\n", table, i)
			}
			return sql
		}
		s := spread{
			url:    pgtest.DatabaseURL(t, nil),
			events: " partition by hash (aggregate_id);\n" + partitions("events"),
			views: spreadViews(func(table, by string) string {
				return " partition by hash (" + by + ");\n" + partitions(table)
			}),
		}
		s.live(t)
	})
	t.Run("Citus", func(t *testing.T) {
		t.Parallel()
		url := os.Getenv("PROJECTOR_CITUS_URL")
		if url == "" {
			t.Skip("this takes a cluster of Citus, with an empty database: make test-citus DATABASE_URL=postgres://…")
		}
		s := spread{
			url:    url,
			events: ";\nselect create_distributed_table('events', 'aggregate_id');",
			views: spreadViews(func(table, by string) string {
				return fmt.Sprintf(";\nselect create_distributed_table('%s', '%s');", table, by)
			}),
		}
		s.emptyCluster(t)
		s.live(t)
		s.otherNode(t)
	})
}

// spreadViews are the tables of version 1. end follows a definition, whose rows belong together by a column.
func spreadViews(end func(table, by string) string) fstest.MapFS {
	return fstest.MapFS{
		"accounts.sql": {Data: []byte(`create table accounts%SUFFIX% (id uuid primary key, owner text not null, balance bigint not null constraint odd%SUFFIX% check (balance <> -1))` +
			end("accounts%SUFFIX%", "id"))},
		"accounts.indexes.sql": {Data: []byte("create index accounts%SUFFIX%_owner on accounts%SUFFIX% (owner)")},
		"transactions.sql": {Data: []byte(`create table transactions%SUFFIX% (
			event_id bigint not null, account_id uuid not null, seq bigint not null, kind text not null, amount bigint not null, balance bigint not null,
			description text not null, at timestamptz not null, constraint transactions%SUFFIX%_pkey primary key (account_id, event_id))` +
			end("transactions%SUFFIX%", "account_id"))},
		"transactions.indexes.sql": {Data: []byte("create unique index transactions%SUFFIX%_seq on transactions%SUFFIX% (account_id, seq)")},
	}
}

func (s spread) definition(versions int) viewschema.Definition {
	d := v1.Definition
	d.Versions, d.Views = projector.Versions{}, s.views
	for v := range versions {
		d.Versions[v+1] = v1.Definition.Versions[1]
	}
	return d
}

// run runs a command of a version, and returns what it has answered.
func (s spread) run(t *testing.T, want, version int, command string) string {
	t.Helper()
	var out, log bytes.Buffer
	process := cli.Process{Args: append([]string{"bank"}, strings.Fields(command)...), Stdout: &out, Stderr: &log, Getenv: func(name string) string {
		if name == "DATABASE_URL" {
			return s.url
		}
		return ""
	}}
	got := cli.Run(t.Context(), s.definition(version), process, cli.WithName("bank"))
	t.Logf("%s of version %d:\n%s%s", command, version, &out, &log)
	if got != want {
		t.Fatalf("%s of version %d: exit code %d, want %d", command, version, got, want)
	}
	return out.String()
}

// live goes through every command, while an application appends and projects.
func (s spread) live(t *testing.T) {
	t.Helper()
	db, err := pgxpool.New(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	mustExec(t, db, `create sequence positions;
		create table events (
			position bigint not null default nextval('positions'), aggregate_id uuid not null, sequence_number bigint not null,
			event_type text not null, data jsonb not null, created_at timestamptz not null default now(),
			primary key (aggregate_id, sequence_number)
		)`+s.events)
	mustExec(t, db, "create index events_position on events (position)")
	conn, err := db.Acquire(t.Context())
	if err == nil {
		err = bank.Fill(t.Context(), conn.Conn(), 3_000, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	conn.Release()

	s.run(t, 0, 1, "events check")
	s.run(t, 0, 1, "init")
	s.run(t, 3, 1, "doctor")
	if plan := s.run(t, 0, 1, "plan"); strings.Contains(plan, "no cut can be settled") {
		t.Errorf("without writers on other nodes, a cut can be settled:\n%s", plan)
	}
	s.run(t, 0, 1, "migrate online")
	s.run(t, 0, 1, "migrate offline")
	stop := s.serve(t, db)
	s.run(t, 0, 2, "plan --rehearse")
	s.run(t, 0, 2, "migrate online")
	s.run(t, 0, 2, "migrate abort --yes")
	s.run(t, 0, 2, "migrate online")
	s.run(t, 0, 2, "migrate catchup")
	s.run(t, 0, 2, "status")
	s.run(t, 0, 2, "migrate offline")
	s.run(t, 0, 1, "rollback")
	stop()
	s.compare(t, db)
	s.run(t, 0, 2, "clean --older-than 0s --yes")
	s.run(t, 0, 2, "migrate online")
	s.run(t, 0, 2, "verify")
	s.run(t, 0, 2, "migrate offline")
	s.run(t, 0, 2, "replay --yes")
	s.compare(t, db)
	s.run(t, 0, 2, "clean --older-than 0s --yes")
	if status := s.run(t, 0, 2, "status"); strings.Contains(status, "accounts_1") {
		t.Errorf("the former table is still there:\n%s", status)
	}
}

// serve appends events until it is stopped.
func (s spread) serve(t *testing.T, db *pgxpool.Pool) (stop func()) {
	t.Helper()
	var releases []bank.Release
	for _, version := range []int{1, 2, 1} {
		r, err := bank.NewRelease(s.definition(version))
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, r)
	}
	customers, err := bank.ShareOut(t.Context(), db, 7, 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := customers[0].Serve(ctx, &bank.Store{DB: db, Releases: releases}); err != nil {
			t.Errorf("the application: %v", err)
		}
	})
	return func() {
		cancel()
		wait.Wait()
	}
}

// compare holds the live tables against a replay by hand.
func (s spread) compare(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	tables, err := bank.Verify(t.Context(), db, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range tables {
		if !c.Same() || c.Rows == 0 {
			t.Error(c)
		}
	}
}

// emptyCluster sees to it that what the test makes was not there before, and is not after.
func (s spread) emptyCluster(t *testing.T) {
	t.Helper()
	db, err := pgxpool.New(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var citus, taken bool
	err = db.QueryRow(t.Context(), `
		select to_regclass('pg_catalog.pg_dist_partition') is not null,
			to_regclass('events') is not null or to_regclass('positions') is not null or to_regnamespace('view_schema') is not null`).Scan(&citus, &taken)
	switch {
	case err != nil:
		t.Fatal(err)
	case !citus:
		t.Fatal("the database is not of a cluster: create extension citus, and add nodes to it")
	case taken:
		t.Fatal("the database has events, positions or view_schema, and the test makes these: give it an empty one")
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, s.url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(ctx)
		for _, sql := range []string{"drop schema if exists view_schema cascade", "drop table if exists events", "drop sequence if exists positions"} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				t.Error(err)
			}
		}
	})
}

// otherNode has a writer on each node of the cluster, of which the coordinator's pg_locks tells nothing: the cut waits for it.
func (s spread) otherNode(t *testing.T) {
	t.Helper()
	db, err := pgxpool.New(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(t.Context(), `
		select nodename, nodeport::text from pg_dist_node where isactive and noderole = 'primary' and groupid <> (select groupid from pg_dist_local_group)`)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (address string, err error) {
		var host, port string
		err = row.Scan(&host, &port)
		return net.JoinHostPort(host, port), err
	})
	if err != nil || len(nodes) == 0 {
		t.Fatalf("the cluster has no other node: %v", err)
	}
	reader, err := eventstore.Open(t.Context(), db, eventstore.Mapping{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range slices.Sorted(slices.Values(nodes)) {
		config := db.Config().ConnConfig.Copy()
		host, port, _ := net.SplitHostPort(node)
		config.Host, config.Fallbacks = host, nil
		if _, err := fmt.Sscan(port, &config.Port); err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatalf("connecting to node %s, as the coordinator does: %v", node, err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		tx, err := conn.Begin(t.Context())
		if err == nil { // below what is there already: only a lock tells of it
			_, err = tx.Exec(t.Context(), "insert into events (position, aggregate_id, sequence_number, event_type, data) values (1, gen_random_uuid(), 1, 'Opened', '{}')")
		}
		if err != nil {
			t.Fatalf("writing through node %s: %v", node, err)
		}
		if _, err := reader.Settle(t.Context(), db, eventstore.Wait{Limit: time.Second}); !errors.Is(err, eventstore.ErrUnsettled) || !strings.Contains(err.Error(), node) {
			t.Errorf("with a writer on node %s: %v", node, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		cut, err := reader.Settle(t.Context(), db, eventstore.Wait{Limit: time.Minute})
		if err != nil || cut.Position == 0 {
			t.Errorf("after it has ended: %+v, %v", cut, err)
		}
	}
}

func mustExec(t *testing.T, db *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}
