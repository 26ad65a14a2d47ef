package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/viewschema/projector/viewschema"
)

// A terminal shows the newest text only, whatever lines it has, and none that would wrap or scroll.
func TestDisplay(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := &display{w: &out, size: func() (int, int) { return 8, 4 }}
	for _, text := range []string{"one\ntwo\n", "a line → too long\n2\n3\n4\n5\n", "end\n"} {
		if err := d.draw(text); err != nil {
			t.Fatal(err)
		}
	}
	const want = "\r\x1b[Jone\ntwo\n" + "\x1b[2A\r\x1b[Ja line →\n2\n3\n" + "\x1b[3A\r\x1b[Jend\n"
	if out.String() != want {
		t.Errorf("it draws %q, want %q", out.String(), want)
	}
}

// That a command goes on saying that it is alive is no change to show; what it holds back for is.
func TestUnhurried(t *testing.T) {
	t.Parallel()
	text := func(seen time.Time, holding string) string {
		t.Helper()
		st := viewschema.Status{AtWork: []viewschema.RunStatus{{Command: "migrate online", Seen: seen, Holding: holding}}}
		s, err := unhurried(st)
		if err != nil || !st.AtWork[0].Seen.Equal(seen) {
			t.Fatal(st, err)
		}
		return s
	}
	now := time.Now()
	if text(now, "") != text(now.Add(time.Second), "") {
		t.Error("a sign of life is shown")
	}
	if text(now, "") == text(now, "paused") {
		t.Error("a reason to hold back is not")
	}
}
