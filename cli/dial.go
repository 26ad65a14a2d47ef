package cli

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// network is how long this side of a connection believes in the other one. The fields have libpq's names and meaning, and can be in the URL:
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES. The server's side has settings of its own: see package
// replay.
type network struct {
	keepalives bool
	idle       time.Duration // without a sign of the other side, until the first question
	interval   time.Duration // between questions
	count      int           // of questions without an answer until the connection is given up
	user       time.Duration // what is sent may be unacknowledged; only on Linux, where it also takes the place of count
}

// A minute, twice what the server waits: nobody waits for what a client waits for, and a server that takes nothing for long because of
// its disks is not gone.
var usualNetwork = network{keepalives: true, idle: 10 * time.Second, interval: 10 * time.Second, count: 5, user: time.Minute}

// connectPatience is how long a server may take to accept a connection, unless connect_timeout says so.
const connectPatience = 10 * time.Second

// dial has the connections of config notice that the other side is gone. It takes out of the run-time parameters what is for this side
// alone; pgx would send it to the server. tcp_user_timeout is for both: the server has a setting of that name.
func dial(config *pgx.ConnConfig) error {
	n := usualNetwork
	for name, set := range map[string]func(int){
		"keepalives":          func(on int) { n.keepalives = on != 0 },
		"keepalives_idle":     func(s int) { n.idle = cmp.Or(time.Duration(s)*time.Second, n.idle) }, // 0 is the default, as to libpq
		"keepalives_interval": func(s int) { n.interval = cmp.Or(time.Duration(s)*time.Second, n.interval) },
		"keepalives_count":    func(times int) { n.count = cmp.Or(times, n.count) },
		"tcp_user_timeout":    func(ms int) { n.user = cmp.Or(time.Duration(ms)*time.Millisecond, n.user) },
	} {
		text, ok := config.RuntimeParams[name]
		if !ok {
			continue
		}
		number, err := strconv.ParseInt(text, 10, 32)
		if err != nil || number < 0 {
			return fmt.Errorf("%s=%s: write a whole number, 0 or more", name, text)
		}
		set(int(number))
		if name != "tcp_user_timeout" {
			delete(config.RuntimeParams, name)
		}
	}
	dialer := &net.Dialer{
		Timeout:         cmp.Or(config.ConnectTimeout, connectPatience),
		KeepAlive:       -1, // unless the next field says otherwise
		KeepAliveConfig: net.KeepAliveConfig{Enable: n.keepalives, Idle: n.idle, Interval: n.interval, Count: n.count},
		Control: func(kind, _ string, conn syscall.RawConn) error {
			if !strings.HasPrefix(kind, "tcp") {
				return nil
			}
			return setUserTimeout(conn, n.user)
		},
	}
	config.DialFunc = dialer.DialContext
	return nil
}
