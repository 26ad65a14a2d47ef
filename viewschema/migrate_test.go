package viewschema_test

import (
	"testing"

	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
)

func TestEveryVersion(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, filledStore)
	first := open(t, db, v1.Definition)
	online(t, first)
	offline(t, first)
	verify(t, db, 1)

	second := open(t, db, version2())
	r := online(t, second)
	t.Logf("%+v", r)
	verify(t, db, 1)
	offline(t, second)
	verify(t, db, 2)

	third := open(t, db, bank.Definition)
	online(t, third)
	offline(t, third)
	verify(t, db, 3)
}
