package cli

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// What the URL says of the network, in libpq's words, holds for this side of the connection, and so does what we set if it says nothing.
func TestDial(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	for _, test := range []struct{ parameters, want, sent string }{
		{"", "keepalives 1: 10 s, 10 s, 5; 60000 ms", "map[]"},
		{"keepalives=1&keepalives_idle=3&keepalives_interval=2&keepalives_count=0", "keepalives 1: 3 s, 2 s, 5; 60000 ms", "map[]"},
		{"tcp_user_timeout=4000&tcp_keepalives_idle=7", "keepalives 1: 10 s, 10 s, 5; 4000 ms", "map[tcp_keepalives_idle:7 tcp_user_timeout:4000]"},
		{"keepalives=0", "keepalives 0: ", "map[]"},
	} {
		config, err := pgx.ParseConfig("postgres://user@" + listener.Addr().String() + "/db?" + test.parameters)
		if err != nil {
			t.Fatal(err)
		}
		if err := dial(config); err != nil {
			t.Fatal(err)
		}
		if sent := fmt.Sprint(config.RuntimeParams); sent != test.sent {
			t.Errorf("%s: the server gets %s", test.parameters, sent)
		}
		conn, err := config.DialFunc(t.Context(), "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := options(t, conn); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %s, want %s", test.parameters, got, test.want)
		}
		_ = conn.Close() // nothing was sent
	}
	for _, wrong := range []string{"keepalives_idle=soon", "tcp_user_timeout=-1"} {
		config, err := pgx.ParseConfig("postgres://user@localhost/db?" + wrong)
		if err != nil {
			t.Fatal(err)
		}
		if err := dial(config); err == nil || err.Error() != wrong+": write a whole number, 0 or more" {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// options asks the kernel.
func options(t *testing.T, conn net.Conn) string {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var numbers []any
	err = raw.Control(func(fd uintptr) {
		for _, o := range [][2]int{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT},
			{syscall.IPPROTO_TCP, tcpUserTimeout},
		} {
			n, err := syscall.GetsockoptInt(int(fd), o[0], o[1])
			if err != nil {
				t.Error(err)
			}
			numbers = append(numbers, n)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("keepalives %d: %d s, %d s, %d; %d ms", numbers...)
}
