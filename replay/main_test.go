package replay_test

import (
	"testing"

	"github.com/viewschema/projector/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
