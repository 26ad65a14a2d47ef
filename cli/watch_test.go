package cli

import (
	"bytes"
	"testing"
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
