package pg_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/viewschema/projector/internal/pg"
)

// A network that has given up is a lost connection, and may be tried again; a deadline of ours is none.
func TestIsConnectionLost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		lost bool
	}{
		{&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}, true}, // keepalives, TCP_USER_TIMEOUT
		{&net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.EHOSTUNREACH)}, true},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}, true},
		{&net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}, false},
		{context.DeadlineExceeded, false},
		{context.Canceled, false},
	} {
		if got := pg.IsConnectionLost(fmt.Errorf("reading: %w", test.err)); got != test.lost {
			t.Errorf("%v: %v", test.err, got)
		}
	}
}
