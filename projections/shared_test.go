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

// The line of a COPY is found in the languages that PostgreSQL's messages come in, and the digits of a table's name are not taken for it.
func TestCopyLine(t *testing.T) {
	t.Parallel()
	for language, where := range map[string]string{
		"English": "COPY transactions_3, line 42", "German": "COPY transactions_3, Zeile 42", "Spanish": "COPY transactions_3, línea 42",
		"French": "COPY transactions_3, ligne 42", "Italian": "COPY transactions_3, riga 42", "Japanese": "transactions_3のCOPY、行 42",
		"Georgian": "COPY transactions_3, ხაზი 42", "Korean": "transactions_3 복사, 42번째 줄", "Russian": "COPY transactions_3, строка 42",
		"Swedish": "COPY transactions_3, rad 42", "Ukrainian": "COPY transactions_3, рядок 42", "Chinese": "COPY transactions_3, 行 42",
	} {
		if got := projections.CopyLine.FindStringSubmatch(where); got == nil || got[1] != "42" {
			t.Errorf("%s: %q in %s", language, got, where)
		}
	}
}
