package crashtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pgtest"
)

const (
	noObstacle = "create or replace function public.obstacle() returns boolean language sql as 'select true';"
	noSlowness = "create or replace function public.slow() returns void language sql as '';"
)

// obstruct makes the first tries to write a row of accounts fail. The sequence counts them: it does not go back when a
// transaction does.
func obstruct(t *testing.T, db *pgxpool.Pool, state string, tries int) {
	t.Helper()
	execute(t, db, fmt.Sprintf(`
		create sequence tries;
		create or replace function public.obstacle() returns boolean language plpgsql as $$
		begin
			if nextval('public.tries') <= %d then
				raise exception 'there is an obstacle' using errcode = '%s';
			end if;
			return true;
		end $$`, tries, state))
}

func tried(t *testing.T, db *pgxpool.Pool) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), "select last_value from tries").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

const always = 1_000_000

// A deadlock and a serialization failure in a batch, and in a group of a catch-up, are tried again; everything else is
// reported, once, and tried once. Whatever happened, the migration goes on when its cause is gone. The errors are raised: a
// disk cannot be filled everywhere, and a full one looks the same from here. This was seen to fail with no error tried
// again, and with all.
func TestErrorsOfPostgres(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, state string
		again       bool
	}{
		{"deadlock", "40P01", true},
		{"serialization", "40001", true},
		{"disk full", "53100", false},
		{"statement timeout", "57014", false},
		{"bad value", "22P02", false},
	} {
		for _, line := range []string{"migrate online", "migrate catchup"} {
			t.Run(test.name+" in "+line, func(t *testing.T) {
				t.Parallel()
				db := pgtest.Database(t, atVersion1)
				execute(t, db, noObstacle+noSlowness)
				if line == "migrate catchup" {
					runObstacle(t, db, 0, "migrate online")
					appendEvents(t, db.Config().ConnString(), 100, 2)
				}
				if test.again {
					obstruct(t, db, test.state, 2)
					runObstacle(t, db, 0, line)
					if n := tried(t, db); n < 3 {
						t.Errorf("it was tried %d times", n)
					}
				} else {
					obstruct(t, db, test.state, always)
					stderr := runObstacle(t, db, 1, line)
					if strings.Count(stderr, "(SQLSTATE "+test.state+")") != 1 {
						t.Errorf("reported as %q", stderr)
					}
					if n := tried(t, db); n != 1 {
						t.Errorf("it was tried %d times", n)
					}
					execute(t, db, noObstacle)
				}
				finishObstacle(t, db)
			})
		}
	}
}

// An index that takes longer than statement_timeout allows.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	execute(t, db, noObstacle+`create function public.slow() returns void language plpgsql as $$
		begin perform pg_sleep(60); end $$`)
	stderr := runObstacle(t, db, 1, "migrate online")
	if strings.Count(stderr, "canceling statement due to statement timeout") != 1 {
		t.Errorf("reported as %q", stderr)
	}
	execute(t, db, noSlowness)
	finishObstacle(t, db)
}

func runObstacle(t *testing.T, db *pgxpool.Pool, want int, line string) (stderr string) {
	t.Helper()
	exit, _, stderr := exits(t, db, "obstacle", append([]string{"--workers", "1"}, strings.Fields(line)...)...)
	if exit != want {
		t.Fatalf("%s: exit code %d, want %d\n%s", line, exit, want, stderr)
	}
	return stderr
}

func finishObstacle(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	for _, line := range []string{"migrate online", "migrate catchup", "migrate offline"} {
		runObstacle(t, db, 0, line)
	}
	verify(t, db, 2)
}
