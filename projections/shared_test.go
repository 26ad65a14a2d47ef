package projections_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/viewschema/projector/projections"
)

// A value that two aggregates have of a unique index: in one COPY of a rebuild or a catch-up, and in the table. The error
// names both, whichever column it is. This was seen to fail without the savepoint, and without the look into the COPY.
func TestUniqueValueOfTwoAggregates(t *testing.T) {
	t.Parallel()
	open := func(position int64, id uuid.UUID) *projections.Raw {
		return ev(position, id, 1, "AccountOpened", `{"iban":"NL1, (x)"}`)
	}
	for name, try := range map[string]func(t *testing.T) error{
		"rebuild": func(t *testing.T) error {
			pool, set := bank(t, accountsProjector)
			_, err := apply(t.Context(), pool, set.Rebuild(), open(1, ada), open(2, bob))
			return err
		},
		"two rebuilds": func(t *testing.T) error {
			pool, set := bank(t, accountsProjector)
			mustApply(t, pool, set.Rebuild(), 1, open(1, ada))
			_, err := apply(t.Context(), pool, set.Rebuild(), open(2, bob))
			return err
		},
		"catch-up": func(t *testing.T) error {
			pool, set := bank(t, accountsProjector)
			_, err := apply(t.Context(), pool, set.CatchUp(), open(1, ada), open(2, bob))
			return err
		},
		"two catch-ups": func(t *testing.T) error {
			pool, set := bank(t, accountsProjector)
			mustApply(t, pool, set.CatchUp(), 1, open(1, ada))
			_, err := apply(t.Context(), pool, set.CatchUp(), open(2, bob))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := try(t)
			if !errors.Is(err, projections.ErrShared) {
				t.Fatal(err)
			}
			for _, part := range []string{"(iban)=(NL1, (x)) is of aggregate", ada.String(), bob.String(), "projections.NewTotals"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("it does not say %s: %v", part, err)
				}
			}
		})
	}
}

// Two aggregates make a row with the same key in one batch of a catch-up, whether or not a unique index would say so.
func TestKeyOfTwoAggregates(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]string{
		"unique index": "select",
		"no index":     "alter table transactions drop constraint transactions_pkey",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, set := bank(t, transactionsProjector)
			if _, err := pool.Exec(t.Context(), alter); err != nil {
				t.Fatal(err)
			}
			_, err := apply(t.Context(), pool, set.CatchUp(),
				ev(7, ada, 1, "MoneyDeposited", `{"amount":1}`), ev(7, bob, 1, "MoneyDeposited", `{"amount":2}`))
			if !errors.Is(err, projections.ErrShared) {
				t.Fatal(err)
			}
			for _, part := range []string{"=(7) is of aggregate", ada.String(), bob.String()} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("it does not say %s: %v", part, err)
				}
			}
		})
	}
}
