package soak

import (
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/cli"
	"github.com/viewschema/projector/examples/bank"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/sql/views"
	"github.com/viewschema/projector/viewschema"
)

// asRelease makes the test binary the command line of one of the bank's releases; its value is the version.
const asRelease = "SOAK_AS_RELEASE"

func TestMain(m *testing.M) {
	if version, err := strconv.Atoi(os.Getenv(asRelease)); err == nil {
		cli.Main(definition(version))
	}
	pgtest.Main(m)
}

// definition is the bank at any version. Versions only go up: odd ones have the accounts of its first release, even ones those
// of its second. Every third makes transactions anew as well, in a shape that differs by a constraint, and transfers, in the order of
// the store.
func definition(version int) viewschema.Definition {
	d := v1.Definition
	if version%2 == 0 {
		d = bank.Definition
	} else {
		d.Projectors = append(slices.Clone(d.Projectors), bank.Transfers)
		d.Views = withTransfers{d.Views}
	}
	d.Versions = projector.Versions{}
	for n := 1; n <= version; n++ {
		d.Versions[n] = []projector.Change{projector.Replay(projector.Named("accounts"))}
		if n%3 == 1 {
			d.Versions[n] = []projector.Change{projector.Replay(projector.Named("accounts"), projector.Named("transactions"), projector.Named("transfers"))}
		}
	}
	return d
}

// withTransfers are the first release's files and those of transfers.
type withTransfers struct{ fs.FS }

func (w withTransfers) Open(name string) (fs.File, error) {
	if strings.HasPrefix(name, "transfers") {
		return views.FS.Open(name)
	}
	return w.FS.Open(name)
}

// shape is the version that has the same accounts, for bank.Verify.
func shape(version int) int { return 2 - version%2 }

// releases are the bank's code for all versions up to the last.
func releases(t *testing.T, last int) (all []bank.Release) {
	t.Helper()
	for version := 1; version <= last; version++ {
		r, err := bank.NewRelease(definition(version))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}
