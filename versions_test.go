package projector_test

import (
	"strings"
	"testing"

	"github.com/viewschema/projector"
)

func TestVersions(t *testing.T) {
	t.Parallel()
	a, b := projector.Named("a"), projector.Named("b")
	v := projector.Versions{1: {projector.Replay(a, b)}, 2: {projector.Alter(a), projector.Drop(b)}}
	if err := v.Validate(); err != nil {
		t.Error(err)
	}
	if v.Target() != 2 || v.UpTo(1).Target() != 1 || v.Target() != 2 {
		t.Errorf("target %d, up to 1 %d", v.Target(), v.UpTo(1).Target())
	}
	if c := v[1][0]; c.Kind() != projector.KindReplay || strings.Join(c.Names(), " ") != "a b" {
		t.Errorf("%s %v", c.Kind(), c.Names())
	}
}

// All that is wrong is reported, each with its version.
func TestVersionsValidate(t *testing.T) {
	t.Parallel()
	a := projector.Named("a")
	for name, test := range map[string]struct {
		versions projector.Versions
		want     []string
	}{
		"none":        {nil, []string{"there are none"}},
		"zero":        {projector.Versions{0: {projector.Replay(a)}}, []string{"0: versions start at 1"}},
		"gap":         {projector.Versions{1: {projector.Replay(a)}, 4: {projector.Replay(a)}}, []string{"3 is missing before 4"}},
		"empty":       {projector.Versions{1: {}}, []string{"1 changes nothing"}},
		"no names":    {projector.Versions{1: {projector.Replay()}}, []string{"1: replay names nothing"}},
		"empty name":  {projector.Versions{1: {projector.Alter(projector.Named(""))}}, []string{"1: alter: an empty name"}},
		"zero change": {projector.Versions{1: {projector.Change{}}}, []string{"1: an empty change"}},
		"all at once": {projector.Versions{1: {}, 3: {projector.Drop()}}, []string{"1 changes nothing", "2 is missing", "3: drop names nothing"}},
	} {
		err := test.versions.Validate()
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %s", name, err, want)
			}
		}
	}
}
