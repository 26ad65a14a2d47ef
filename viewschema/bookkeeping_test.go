package viewschema_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// Bookkeeping that somebody has edited is said, not guessed at, and nothing is touched.
func TestDamagedBookkeeping(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ damage, want string }{
		"built table dropped":         {"drop table view_schema.accounts_2", "accounts_2 is gone"},
		"batch taken back":            {"update view_schema.projector_batches set done_at = null where number = 1", "batches are not done"},
		"another version made active": {"update view_schema.projector_migrations set to_version = 7 where state = 'active'", "version 7 is current"},
		"table of bookkeeping gone":   {"drop table view_schema.projector_batches", "projector_batches"},
		"bookkeeping of a newer one":  {"insert into view_schema.projector_bookkeeping values (99)", "a newer Projector"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			online(t, open(t, db, version2()))
			if _, err := db.Exec(t.Context(), test.damage); err != nil {
				t.Fatal(err)
			}
			before := dump(t, db)
			for name, step := range steps(open(t, db, version2())) {
				err := step(t.Context())
				ahead := errors.Is(err, viewschema.ErrBelowCurrent) // a current version of 7 is also that
				if !ahead && (!errors.Is(err, viewschema.ErrBookkeeping) || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if after := dump(t, db); after != before {
				t.Errorf("the schema has changed:\n%s", after)
			}
		})
	}
}
