package nearest_test

import (
	"slices"
	"testing"

	"github.com/viewschema/projector/internal/nearest"
)

func TestName(t *testing.T) {
	t.Parallel()
	known := slices.Values([]string{"online", "offline", "catchup", "abort", "h", "MoneyDeposited"})
	for wrong, want := range map[string]string{
		"ofline": "offline", "onlin": "online", "abrot": "abort", "moneydepositd": "MoneyDeposited",
		"v": "", "": "", "status": "", "MoneyWithdrawn": "",
	} {
		if got := nearest.Name(wrong, known); got != want {
			t.Errorf("%q: %q, want %q", wrong, got, want)
		}
	}
	if got := nearest.DidYouMean("--", "abrot", known); got != "; did you mean --abort?" {
		t.Error(got)
	}
}
