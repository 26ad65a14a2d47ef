package projectiontest_test

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pglocal"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/projections/projectiontest"
	"github.com/viewschema/projector/sql/views"
)

// A SQL projector's tables are computed where the history is given, and left alone where the application projects.
func TestSQLProjector(t *testing.T) {
	t.Parallel()
	owners := &projections.Projector{Name: "owners", Tables: []projections.Table{&projections.SQLTable{
		Name: "owners", Aggregate: "id",
		Query: "select aggregate_id as id, min(data ->> 'owner_name') as owner from %EVENTS% e where event_type = 'AccountOpened' group by 1",
	}}}
	d := bank.Definition
	d.Projectors = append([]*projections.Projector{owners}, bank.Projectors...)
	d.Versions = maps.Clone(bank.Versions)
	d.Versions[d.Versions.Target()+1] = []projector.Change{projector.Replay(owners)}
	files := fstest.MapFS{"owners.sql": {Data: []byte("create table owners%SUFFIX% (id uuid not null, owner text not null)")}}
	names, err := fs.Glob(views.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(views.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	d.Views = files

	test := projectiontest.Database(t, d)
	owned := func() (text string) {
		t.Helper()
		if err := test.Pool().QueryRow(t.Context(), "select coalesce(string_agg(owner, ' ' order by owner), '') from view_schema.owners").Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	test.Given(anna, bank.Opened{Owner: "Anna", IBAN: "NL01"})
	test.When(ben, bank.Opened{Owner: "Ben", IBAN: "NL02"})
	if got := owned(); got != "Anna" {
		t.Errorf("owners %q, want Anna's alone", got)
	}
	test.Regenerate()
	if got := owned(); got != "Anna Ben" {
		t.Errorf("owners %q, want both", got)
	}
	projectiontest.Memory(t, d).When(anna, bank.Opened{Owner: "Anna"})
}

func TestDefinitionsThatNeedMore(t *testing.T) {
	t.Parallel()
	for want, test := range map[string]func(t *recorder){
		"add the option projectiontest.EventTable": func(t *recorder) {
			d := bank.Definition
			d.Source = eventstore.Mapping{Relation: "messages"}
			projectiontest.Database(t, d)
		},
		"making the event table: ERROR: syntax error": func(t *recorder) {
			projectiontest.Database(t, bank.Definition, projectiontest.EventTable("create tables"))
		},
		"table accounts of projector accounts: accounts.sql: the definition has no Views": func(t *recorder) {
			d := bank.Definition
			d.Views = nil
			projectiontest.Database(t, d)
		},
		"no event type decodes to it": func(t *recorder) {
			d := bank.Definition
			d.Events = nil
			projectiontest.Memory(t, d)
		},
	} {
		if got := record(t.Context(), test); !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}

// child runs a test of this package in a process of its own.
func child(t *testing.T, test string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+test+"/database") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// On a developer's server a test binary leaves the template, and nothing else; the next one uses it.
func TestWhatIsLeftOnAServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, nil, pglocal.Options{})
	var left [2]string
	for i := range left {
		child(t, "TestLiveAndRebuilt", "DATABASE_URL="+server.URL(""))
		left[i] = databases(t, server.URL(""))
	}
	if !regexp.MustCompile(`^projectiontest_[0-9a-f]{24} \d+$`).MatchString(left[0]) || left[0] != left[1] {
		t.Errorf("left are %s, and then %s; want one template, and the same", left[0], left[1])
	}
}

// databases lists the tests' databases with their oids.
func databases(t *testing.T, url string) (names string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	err = conn.QueryRow(t.Context(), `
		select coalesce(string_agg(datname || ' ' || oid, ', ' order by datname), '') from pg_database where datname like 'projectiontest%'`).Scan(&names)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A private server is gone with the test binary that has started it, without a TestMain.
func TestWhatIsLeftOfAPrivateServer(t *testing.T) {
	t.Parallel()
	temp, err := os.MkdirTemp("/tmp", "kit-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(temp) }()
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	child(t, "TestLiveAndRebuilt", "DATABASE_URL=", "TMPDIR="+temp)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(20 * time.Second)
	for {
		left, err := os.ReadDir(temp)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatal("left is ", left)
		}
	}
}
