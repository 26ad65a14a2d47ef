package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// mebibyte in bytes.
const mebibyte = 1 << 20

// keepFree is a throttle with a limit.
func keepFree(bytes int64) func(*viewschema.Throttle) {
	return func(t *viewschema.Throttle) { t.MinFreeDisk = bytes }
}

// wanting opens the second release with options.
func wanting(t *testing.T, db *pgxpool.Pool, o viewschema.Options) *viewschema.Schema {
	t.Helper()
	o.Log = zerolog.New(zerolog.NewTestWriter(t))
	s, err := viewschema.Open(db, version2(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What a query says of the disks is believed. Where it says that there is too little, or does not say, nothing is begun.
func TestFreeDiskQuery(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		query string
		err   error
		want  string
	}{
		"enough":         {"select volume, bytes / 2 from (values ('data', 4e9::float8), ('wal', 5e9)) v (volume, bytes) -- as df says", nil, ""},
		"too little":     {"values ('data', 4000000000), ('wal', 1000000)", viewschema.ErrSpace, "976.6 KB are free on the volume of wal, and --min-free-disk is 1.0 MB"},
		"to the byte":    {"select 'data', 1048576; ", nil, ""},
		"no volume":      {"select 'data', 1 where false", viewschema.ErrRefused, "--free-disk-query yields no row; or go without"},
		"nobody knows":   {"select 'data', null::bigint", viewschema.ErrRefused, "--free-disk-query yields null for volume data"},
		"no number":      {"select 'data', 'much'", viewschema.ErrRefused, "invalid input syntax"},
		"no such thing":  {"select * from disks", viewschema.ErrRefused, `relation "disks" does not exist`},
		"one column":     {"select 1", viewschema.ErrRefused, "--free-disk-query, which has to yield the name of a volume and the bytes"},
		"two statements": {"select 'data', 1) x; drop table events; select 1 from (select 'data', 1", viewschema.ErrRefused, "--free-disk-query"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			s := wanting(t, db, viewschema.Options{FreeDiskQuery: test.query, Throttle: keepFree(mebibyte)})
			_, err := s.MigrateOnline(t.Context())
			if !errors.Is(err, test.err) || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if begun := scalar[bool](t, db, "select exists (select from view_schema.projector_migrations where to_version = 2)"); begun != (test.err == nil) {
				t.Errorf("a migration has begun: %t", begun)
			}
		})
	}
}

// The function of the documentation knows the disks that this host sees.
func TestFreeDiskFunction(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, function, _ := strings.Cut(string(text), "```sql\n  create function public.free_disk()")
	function, _, ok := strings.Cut(function, "```")
	if !ok {
		t.Fatal("there is no such function")
	}
	db := pgtest.Database(t, atVersion1)
	mustExec(t, db, "create function public.free_disk()"+function)
	s := wanting(t, db, viewschema.Options{FreeDiskQuery: "select * from public.free_disk()", Throttle: keepFree(1)})
	found, err := s.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f := finding(t, found, "are free on the volume of /"); f.Severity != viewschema.SeverityFit {
		t.Errorf("%+v", f)
	}
	online(t, s)
	for range 2 { // in one session
		if _, err := s.CatchUp(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A limit holds for all who work on the migration, from when it is set, and to a smaller one they go on.
func TestStopsWhenTooLittleIsFree(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := wanting(t, db, viewschema.Options{FreeDiskQuery: "select 'data', 1000"})
	online(t, s)
	followed := make(chan error, 1)
	go func() { followed <- s.Follow(t.Context(), time.Millisecond, func(viewschema.Result) {}) }()
	await(t, db, "select exists (select from view_schema.projector_runs where command = 'migrate catchup' and ended_at is null)")
	operator := open(t, db, version2())
	if _, err := operator.ChangeThrottle(t.Context(), keepFree(1001)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-followed:
		if !errors.Is(err, viewschema.ErrSpace) {
			t.Errorf("the follower ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the follower does not end")
	}
	if last := recent(t, s)[0]; last.Outcome != "failed" || !strings.Contains(last.Error, "too little disk space: 1000 B are free on the volume of data") {
		t.Errorf("the record has %+v", last)
	}
	if _, err := s.CatchUp(t.Context()); !errors.Is(err, viewschema.ErrSpace) {
		t.Errorf("a catch-up ends with %v", err)
	}
	if _, err := operator.ChangeThrottle(t.Context(), keepFree(1000)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CatchUp(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := operator.ChangeThrottle(t.Context(), keepFree(1001)); err != nil {
		t.Fatal(err)
	}
	offline(t, s) // writers wait for it
	verify(t, db, 2)
}

// A replay of live tables leaves them as they were.
func TestReplayWithTooLittleFree(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	online(t, open(t, db, version2()))
	s := wanting(t, db, viewschema.Options{FreeDiskQuery: "select 'data', 1000", Throttle: keepFree(1001)})
	offline(t, s)
	if _, err := s.ReplayAll(t.Context()); !errors.Is(err, viewschema.ErrSpace) {
		t.Error(err)
	}
	verify(t, db, 2)
}

// Without a query, the server's host is asked, if this is it: a role that may not know where the data are is told what it needs.
func TestFreeDiskOfThisHost(t *testing.T) {
	t.Parallel()
	if os.Getenv("DATABASE_URL") != "" {
		t.Skip("the server that DATABASE_URL names may be on another host")
	}
	db := pgtest.Database(t, atVersion1)
	role := "diskless_" + db.Config().ConnConfig.Database
	mustExec(t, db, "create role "+role+" login; grant usage, create on schema view_schema to "+role+"; grant all on all tables in schema view_schema to "+role+
		"; grant select on events to "+role)
	t.Cleanup(func() {
		_, _ = db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+"; drop role "+role)
	})
	diskless := connecting(t, db, func(c *pgx.ConnConfig) { c.User = role })
	s := wanting(t, diskless, viewschema.Options{Throttle: keepFree(1 << 60)})
	_, err := s.MigrateOnline(t.Context())
	grant := "grant pg_read_all_settings to " + role
	if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "type: "+grant+";") {
		t.Error(err)
	}
	found, err := s.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f := finding(t, found, "the new tables need"); f.Severity != viewschema.SeverityNote || !strings.Contains(f.Text, grant) {
		t.Errorf("%+v", f)
	}
	mustExec(t, db, grant)
	if _, err = s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrSpace) { // nobody has an exabyte
		t.Error(err)
	}
	if found, err = s.Doctor(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := finding(t, found, "are free on the volume of /"); f.Severity != viewschema.SeverityFit {
		t.Errorf("%+v", f)
	}
}

// Before a migration begins that will probably not fit, it says so; whoever knows that it fits lets it go on.
func TestWarnsOfTooLittleRoom(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	const warning = "the migration will stop for want of space"
	for free, want := range map[int64]bool{mebibyte + 1: true, 1 << 40: false} {
		w := &watcher{}
		s := watched(t, db, version2(), viewschema.Options{FreeDiskQuery: fmt.Sprintf("select 'data', %d", free), Throttle: keepFree(mebibyte)}, w)
		online(t, s)
		if got := strings.Contains(w.log(), warning); got != want {
			t.Errorf("with %d bytes: %s", free, w.log())
		}
		if _, err := s.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
