package pgtest

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pglocal"
)

// Replicated starts a server of this test's own, and hot standbys that stream from it, one for each of the settings. It returns the
// URLs of a database that setup has filled, and that the standbys have. The servers end with the test.
func Replicated(t testing.TB, setup Setup, settings ...map[string]string) (primary string, standbys []string) {
	t.Helper()
	p := Server(t, setup, pglocal.Options{})
	for _, own := range settings {
		s, err := p.Standby(t.Context(), pglocal.Options{TempDir: os.Getenv("TMPDIR"), Settings: own})
		if err != nil {
			t.Fatal(err)
		}
		stopAfter(t, s)
		standbys = append(standbys, s.URL(""))
	}
	return p.URL(""), standbys
}

// Pool connects to a database that a test has the URL of. The pool is closed when the test ends.
func Pool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
