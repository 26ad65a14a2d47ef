package eventstore_test

import (
	"testing"

	"github.com/viewschema/projector/eventstore"
)

// No Citus is at hand in the tests, and what its functions and views answer is not made up here: that the statements which ask them are SQL is
// all that can be known. PL/pgSQL parses the statements of a function, and looks names up when it runs them. See also TestDistributed in cli.
func TestStatementsForCitus(t *testing.T) {
	t.Parallel()
	db := store(t)
	for _, sql := range eventstore.StatementsForCitus {
		_, err := db.Exec(t.Context(), "create or replace function f(oid, text[]) returns setof record language plpgsql as $f$begin return query "+sql+"; end$f$")
		if err != nil {
			t.Errorf("%v in %s", err, sql)
		}
	}
}
