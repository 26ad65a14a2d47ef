package pgtest

import (
	"cmp"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pglocal"
)

// Server starts a server of this test's own, whose database setup fills. It ends with the test.
func Server(t testing.TB, setup Setup, o pglocal.Options) *pglocal.Server {
	t.Helper()
	binaries, err := pglocal.Find(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	o.TempDir = cmp.Or(o.TempDir, os.Getenv("TMPDIR"))
	s, err := pglocal.Start(t.Context(), binaries, o)
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s)
	if setup == nil {
		return s
	}
	conn, err := pgx.Connect(t.Context(), s.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := setup(t.Context(), conn); err != nil {
		t.Fatalf("setup: %v", err)
	}
	return s
}

func stopAfter(t testing.TB, s *pglocal.Server) {
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
}
