package dashboard

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// get asks without following or asking for compression, and returns the answer's body.
func get(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	origin, _ := serving(t, database{open(t, db, viewschema.Options{}), db}, "")
	for path, typ := range map[string]string{
		"/": "text/html; charset=utf-8", "/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8", "/icon.svg": "image/svg+xml",
		"/overview.json": "application/json", "/metrics": "text/plain; version=0.0.4; charset=utf-8", "/healthz": "text/plain; charset=utf-8",
	} {
		r, body := get(t, http.MethodGet, origin+path)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != typ || body == "" {
			t.Errorf("%s: %s, %s", path, r.Status, r.Header.Get("Content-Type"))
		}
		for header, want := range map[string]string{
			"Content-Security-Policy": contentPolicy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
			"Access-Control-Allow-Origin": "",
		} {
			if got := r.Header.Get(header); got != want {
				t.Errorf("%s: %s is %q", path, header, got)
			}
		}
		if slices.Contains([]string{"/overview.json", "/metrics", "/healthz"}, path) && r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be stored: %q", path, r.Header.Get("Cache-Control"))
		}
		if strings.Contains(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", ""), "://") {
			t.Errorf("%s names another place", path)
		}
		if r, body := get(t, http.MethodHead, origin+path); r.StatusCode != http.StatusOK || body != "" {
			t.Errorf("HEAD %s: %s, %q", path, r.Status, body)
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			if r, _ := get(t, method, origin+path); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %s", method, path, r.Status)
			}
		}
	}
	for _, path := range []string{"/page", "/index.htm", "/../dashboard.go", "/debug/pprof/", "/page.js/"} {
		if r, _ := get(t, http.MethodGet, origin+path); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, r.Status)
		}
	}

	r, zipped := get(t, http.MethodGet, origin+"/overview.json", "Accept-Encoding", "gzip")
	unzipped, err := gzip.NewReader(strings.NewReader(zipped))
	if err != nil || r.Header.Get("Content-Encoding") != "gzip" {
		t.Fatal(err, r.Header)
	}
	var o viewschema.Overview
	if err := json.NewDecoder(unzipped).Decode(&o); err != nil || o.Schema != "view_schema" || o.Current != 1 {
		t.Errorf("%+v, %v", o, err)
	}
}

// Another site's page, whose name resolves to this machine, is not answered to.
func TestHost(t *testing.T) {
	t.Parallel()
	s := newServer(t.Context(), nil, zerolog.Nop())
	for host, allowed := range map[string]bool{
		"127.0.0.1:8080": true, "127.0.0.1": true, "localhost:9000": true, "LOCALHOST": true, "[::1]:8080": true, "[::1]": true, "127.1.2.3:80": true,
		"example.org": false, "localhost.example.org:8080": false, "127.0.0.1.example.org": false, "10.0.0.1:8080": false, "": false, "[::]": false,
	} {
		for _, loopback := range []bool{true, false} {
			s.loopback = loopback
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.Host = host
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if want := allowed || !loopback; (w.Code == http.StatusOK) != want || !want && strings.Contains(w.Body.String(), "<html") {
				t.Errorf("host %q, loopback %v: %d", host, loopback, w.Code)
			}
		}
	}
	db := pgtest.Database(t, nil)
	origin, _ := serving(t, database{open(t, db, viewschema.Options{}), db}, "")
	if r, _ := get(t, http.MethodGet, origin+"/overview.json", "Host", "rebound.example.org"); r.StatusCode != http.StatusForbidden {
		t.Errorf("on loopback, another host: %s", r.Status)
	}
}

// counting counts how often a Source is asked.
type counting struct {
	Source
	overviews atomic.Int32
}

func (c *counting) Overview(ctx context.Context) (*viewschema.Overview, error) {
	c.overviews.Add(1)
	return c.Source.Overview(ctx)
}

// However many ask, the database is asked once at a time.
func TestManyClients(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	source := &counting{Source: database{open(t, db, viewschema.Options{}), db}}
	s := newServer(t.Context(), source, zerolog.Nop())
	holder, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := holder.Exec(t.Context(), "lock table view_schema.projector_migrations"); err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/overview.json", nil))
			if w.Code != http.StatusOK {
				t.Errorf("%d, %s", w.Code, w.Body)
			}
		})
	}
	// One that goes away does not take the others' answer with it.
	leaving, leave := context.WithCancel(t.Context())
	leave()
	s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(leaving, http.MethodGet, "/metrics", nil))
	awaitLock(t, db)
	if err := holder.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	clients.Wait()
	if n := source.overviews.Load(); n > 2 { // a second may have passed before the last of them was there
		t.Errorf("21 clients have asked the database %d times", n)
	}
}

// awaitLock returns when a session waits for a lock.
func awaitLock(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	began := time.Now()
	for !scalar[bool](t, db, "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())") {
		if time.Since(began) > patience {
			t.Fatal("nobody waits for a lock")
		}
	}
}

// A database that does not answer in time, refuses or is gone, is said with a reason that has no name of a host, a user or a database in
// it; the log has the whole of it, once.
func TestOutOfReach(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	ask := func(t *testing.T, s *server, path, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		body := w.Body.String()
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(body, want) || strings.Contains(body, db.Config().ConnConfig.Database) ||
			strings.Contains(body, db.Config().ConnConfig.User) {
			t.Errorf("%s: %d, %s; want %s", path, w.Code, body, want)
		}
	}
	t.Run("too late", func(t *testing.T) {
		t.Parallel()
		own := pgtest.Database(t, atVersion1)
		tx, err := own.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
		if _, err := tx.Exec(t.Context(), "lock table view_schema.projector_migrations"); err != nil {
			t.Fatal(err)
		}
		s := newServer(t.Context(), database{open(t, own, viewschema.Options{}), own}, zerolog.Nop())
		s.latest.limit = 100 * time.Millisecond
		ask(t, s, "/overview.json", `{"error":"it takes too long"}`)
		ask(t, s, "/metrics", "it takes too long")
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		config := db.Config()
		config.ConnConfig.Database = "no_such_database"
		other, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(other.Close)
		var log strings.Builder
		s := newServer(t.Context(), database{open(t, other, viewschema.Options{}), other}, zerolog.New(&log))
		for range 2 {
			ask(t, s, "/healthz", "the database cannot be reached: the server refuses with SQLSTATE 3D000")
		}
		ask(t, s, "/overview.json", "SQLSTATE 3D000")
		if !strings.Contains(log.String(), "no_such_database") || strings.Count(log.String(), "\n") > 2 {
			t.Errorf("the log has:\n%s", log.String())
		}
	})
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		config := db.Config()
		config.ConnConfig.Host, config.ConnConfig.Port, config.ConnConfig.Fallbacks = "127.0.0.1", 1, nil
		other, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(other.Close)
		s := newServer(t.Context(), database{open(t, other, viewschema.Options{}), other}, zerolog.Nop())
		for _, path := range []string{"/healthz", "/overview.json", "/metrics"} {
			ask(t, s, path, "there is no connection")
		}
	})
}

// Serving ends with its context, and leaves nothing, not even of what is being answered. It has to be alone to see that.
func TestServeEnds(t *testing.T) {
	db := pgtest.Database(t, atVersion1)
	source := database{open(t, db, viewschema.Options{}), db}
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	before := goleak.IgnoreCurrent()
	origin, end := serving(t, source, "")
	if r, body := get(t, http.MethodGet, origin+"/healthz"); r.StatusCode != http.StatusOK || body != "ok\n" {
		t.Errorf("%s, %s", r.Status, body)
	}
	if _, err := tx.Exec(t.Context(), "lock table view_schema.projector_migrations"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan string, 1)
	go func() {
		defer close(answered)
		_, body := get(t, http.MethodGet, origin+"/overview.json")
		answered <- body
	}()
	awaitLock(t, db)
	end()
	if body := <-answered; !strings.Contains(body, "this process is ending") {
		t.Errorf("it has answered %s", body)
	}
	goleak.VerifyNone(t, before)
}

var (
	nameLine   = regexp.MustCompile(`^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*(?:"(?:[^"\\]|\\[\\"n])*"[^}]*)*)\} (\S+)$`)
	labelPart  = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)`)
)

// parse reads an exposition as strictly as its format is described: each metric once, with HELP and TYPE before its samples, labels
// escaped, no sample twice, a newline at the end.
func parse(t *testing.T, text string) map[string]float64 {
	t.Helper()
	if !strings.HasSuffix(text, "\n") || strings.Contains(text, "\n\n") {
		t.Errorf("there is no newline at the end, or an empty line: %q", text)
	}
	samples, seen, current, said := map[string]float64{}, map[string]bool{}, "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := nameLine.FindStringSubmatch(line); m != nil {
			switch {
			case m[1] == "HELP" && !seen[m[2]]:
				seen[m[2]] = true
			case m[1] == "TYPE" && said == "HELP "+m[2] && m[3] == "gauge":
				current = m[2]
			default:
				t.Errorf("out of place: %s", line)
			}
			said = m[1] + " " + m[2]
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || m[1] != current {
			t.Errorf("no sample of %s: %s", current, line)
			continue
		}
		said = ""
		for labels := m[2]; labels != ""; {
			part := labelPart.FindStringSubmatch(labels)
			if part == nil {
				t.Errorf("labels that cannot be read: %s", line)
				break
			}
			labels = labels[len(part[0]):]
		}
		number, err := strconv.ParseFloat(m[3], 64)
		if _, twice := samples[m[1]+"{"+m[2]+"}"]; twice || err != nil {
			t.Errorf("%s: twice %v, %v", line, twice, err)
		}
		samples[m[1]+"{"+m[2]+"}"] = number
	}
	return samples
}

// The metrics are what the database has, while nothing is under way, in a rebuild, and when it is built.
func TestMetrics(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	schema := open(t, db, viewschema.Options{})
	scrape := func() map[string]float64 {
		t.Helper()
		s := newServer(t.Context(), database{schema, db}, zerolog.Nop())
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		return parse(t, w.Body.String())
	}
	check := func(samples map[string]float64, want map[string]float64) {
		t.Helper()
		for name, number := range want {
			metric, labels, _ := strings.Cut(name, " ")
			key := metric + `{schema="view_schema"` + labels + "}"
			if got, ok := samples[key]; !ok || got != number {
				t.Errorf("%s is %g (%v), want %g", key, got, ok, number)
			}
		}
	}
	idle := scrape()
	check(idle, map[string]float64{
		"projector_version": 1, "projector_target_version": 2, `projector_migration_state ,state="building"`: 0, `projector_migration_state ,state="built"`: 0,
		"projector_parked_aggregates": 0, "projector_longest_transaction_seconds": 0,
	})
	if _, ok := idle[`projector_events{schema="view_schema"}`]; ok {
		t.Error("there are events of no migration")
	}
	goOn := heldOpen(t, db)
	mustExec(t, db, insertRun, "migrate online", 0, "failed", "an event", 1)
	mustExec(t, db, insertRun, "migrate online", 1, "", "", nil)
	check(scrape(), map[string]float64{
		`projector_migration_state ,state="building"`: 1, "projector_migration_version": 2, `projector_batches ,phase="replay",state="done"`: 2,
		`projector_batches ,phase="replay",state="running"`: 2, `projector_batches ,phase="replay",state="waiting"`: 1,
		`projector_batches ,phase="replay",state="failed"`: 0, "projector_runs_at_work": 2, "projector_runs_holding_back": 0,
		"projector_done_events":                    scalar[float64](t, db, "select sum(events)::float8 from view_schema.projector_batches where migration_id = 2"),
		"projector_last_failure_timestamp_seconds": scalar[float64](t, db, "select trunc(extract(epoch from ended_at), 3)::float8 from view_schema.projector_runs where outcome = 'failed'"),
	})
	goOn()
	mustExec(t, db, `insert into events (aggregate_id, sequence_number, event_type, data) values (gen_random_uuid(), 1, 'AccountOpened', '{}')`)
	check(scrape(), map[string]float64{
		`projector_migration_state ,state="built"`: 1, `projector_migration_state ,state="building"`: 0, "projector_tail_events": 1, "projector_workers": 0,
		`projector_table_bytes ,table="accounts_2",role="built"`: scalar[float64](t, db, "select pg_total_relation_size('view_schema.accounts_2')::float8"),
		"projector_events_per_second":                            0,
	})
}

// Names are the operator's, and may have anything in them.
func TestMetricsEscape(t *testing.T) {
	t.Parallel()
	lag := 1.5
	o := &viewschema.Overview{Status: viewschema.Status{Schema: "a \"b\"\\\n}", Tables: []viewschema.TableStatus{{Table: "é{\"", Role: "live", Bytes: 1 << 53}}}}
	o.Replication.Seconds = &lag
	samples := parse(t, string(exposition(o)))
	const schema = `schema="a \"b\"\\\n}"`
	for key, want := range map[string]float64{
		fmt.Sprintf(`projector_table_bytes{%s,table="é{\"",role="live"}`, schema): 1 << 53,
		fmt.Sprintf(`projector_replication_lag_seconds{%s}`, schema):              1.5,
	} {
		if got := samples[key]; got != want {
			t.Errorf("%s is %g, want %g", key, got, want)
		}
	}
}
