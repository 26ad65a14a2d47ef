package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/viewschema/projector/viewschema"
)

// standby says how far the standby is that events are read from.
func standby(t io.Writer, s *viewschema.StandbyStatus) {
	switch {
	case s == nil:
	case !s.Recovers:
		fmt.Fprintln(t, "standby\tit was promoted, and is one no longer: name another one in --events-url")
	case s.Behind == 0:
		fmt.Fprintln(t, "standby\tnot behind")
	case s.Last == nil:
		fmt.Fprintf(t, "standby\t%s of WAL behind\n", size(s.Behind))
	default:
		fmt.Fprintf(t, "standby\t%s of WAL behind; its last commit is of %s\n", size(s.Behind), s.Last.Format(time.DateTime))
	}
}
