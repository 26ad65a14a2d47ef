//go:build linux

package hoststest

import (
	"strings"
	"testing"

	"github.com/viewschema/projector/viewschema"
)

// impatient has both sides of a connection give up within 3 seconds. The server's settings are shorter than ours, and stay.
const impatient = "&tcp_keepalives_idle=1&tcp_keepalives_interval=1&tcp_keepalives_count=2" +
	"&keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=3000"

// Three workers on three hosts. One host is cut off in the middle of a batch, one worker is killed in the middle of another, and one
// joins late: it does what they had, no more and no less. The one that was cut off notices, and goes on when its cable is back. Seen to
// fail without the keepalives of the client, and without its errors being taken for those of a lost connection.
func TestOneCutOffOneKilledOneLate(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	s := newStore(t, n.host(t, "postgres"))
	a, b, c := n.host(t, "a"), n.host(t, "b"), n.host(t, "c")
	open := s.closeGate(t)
	cutOff, killed := a.work(t, s.remote+impatient), b.work(t, s.remote+impatient)
	s.awaitAtGate(t, 2)
	held := s.workers(t)
	for host, w := range map[string]*worker{"a": cutOff, "b": killed} {
		if got := held[host]; got.Batch == 0 || got.HostPID != w.Process.Pid || got.State != viewschema.WorkerWorking {
			t.Errorf("on %s, pid %d, is %+v", host, w.Process.Pid, got)
		}
	}

	n.unplug(t, a)
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait() // killed
	late := c.work(t, s.remote+impatient)
	s.await(t, "late worker alone at the gate", func() bool {
		now := s.workers(t)
		return len(now) == 1 && now["c"].Batch > 0
	})
	s.await(t, "sign that a knows", func() bool {
		return strings.Contains(cutOff.log.text(), "the connection is lost; waiting for the server")
	})
	open()
	late.succeeds(t)
	for host, w := range held {
		if by := s.doneBy(t, w.Batch); !strings.HasPrefix(by, "projector on c ") {
			t.Errorf("batch %d of %s was done by %s", w.Batch, host, by)
		}
	}
	n.plugIn(t, a)
	cutOff.succeeds(t)
	s.finish(t, "1 s, 1 s, 2, 3000 ms")
}

// With the settings that every session has: those of the URL above would do without them. Within half a minute the server gives a host
// up, whether it waits for it or is busy for it, and before that status says that nobody is behind the session.
func TestCutOffWithUsualSettings(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("half a minute")
	}
	for name, meanwhile := range map[string]func(open func()){
		"in a statement":            func(func()) {},              // seen to fail without tcp_keepalives_*, and without client_connection_check_interval
		"with an answer on its way": func(open func()) { open() }, // seen to fail without tcp_user_timeout
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			s := newStore(t, n.host(t, "postgres"))
			a, b := n.host(t, "a"), n.host(t, "b")
			open := s.closeGate(t)
			a.work(t, s.remote)
			s.awaitAtGate(t, 1)
			batch := s.workers(t)["a"].Batch
			n.unplug(t, a)
			meanwhile(open)
			s.await(t, "lost worker", func() bool { return s.workers(t)["a"].State == viewschema.WorkerLost })
			s.await(t, "end of its session", func() bool { return s.workers(t)["a"].Batch == 0 })
			open()
			b.work(t, s.remote).succeeds(t)
			if by := s.doneBy(t, batch); !strings.HasPrefix(by, "projector on b ") {
				t.Errorf("batch %d was done by %s", batch, by)
			}
			s.finish(t, "10 s, 5 s, 4, 30000 ms")
		})
	}
}
