//go:build linux

package hoststest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/viewschema/projector/internal/pglocal"
)

// subnet is the addresses of hosts, the same in each network: nothing outside of one knows of it.
const subnet = "10.9.0.0/24"

// network is some hosts at a switch.
type network struct {
	box   *host // with the switch in it
	hosts int
}

// host is a network and a host name of its own.
type host struct {
	name    string
	address string
	port    string // of the switch
	pid     int    // of the process that holds the namespaces
}

// newNetwork skips the test where there cannot be one.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("hosts are network namespaces, which only root can make here")
	}
	for _, program := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("hosts are network namespaces: %v; install iproute2 and util-linux", err)
		}
	}
	n := &network{box: newHost(t, "switch")}
	if out, err := n.box.ip("link add name switch type bridge"); err != nil {
		t.Skipf("no switch can be made here: %v\n%s", err, out)
	}
	n.box.mustIP(t, "link set dev switch up")
	return n
}

// host plugs a new host in.
func (n *network) host(t *testing.T, name string) *host {
	t.Helper()
	h := newHost(t, name)
	n.hosts++
	h.address, h.port = fmt.Sprintf("10.9.0.%d", n.hosts), "port"+strconv.Itoa(n.hosts)
	n.box.mustIP(t, "link add name "+h.port+" type veth peer name eth0 netns "+strconv.Itoa(h.pid))
	n.box.mustIP(t, "link set dev "+h.port+" master switch up")
	h.mustIP(t, "address add "+h.address+"/24 dev eth0")
	h.mustIP(t, "link set dev eth0 up")
	return h
}

// unplug takes the host's cable out of the switch: what either side sends from here on is lost, and neither is told.
func (n *network) unplug(t *testing.T, h *host) {
	t.Helper()
	n.box.mustIP(t, "link set dev "+h.port+" down")
}

func (n *network) plugIn(t *testing.T, h *host) {
	t.Helper()
	n.box.mustIP(t, "link set dev "+h.port+" up")
}

// newHost starts a process that does nothing but hold its namespaces.
func newHost(t *testing.T, name string) *host {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+roleHost, hostName+"="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS}
	_, err := untilStdinEnds(t, cmd)
	switch {
	case errors.Is(err, syscall.EPERM):
		t.Skipf("network namespaces are not allowed here: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	return &host{name: name, pid: cmd.Process.Pid}
}

// command is a run of this test binary, or of another program, on the host. Its process is the program's own.
func (h *host) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	namespace := func(kind string) string { return fmt.Sprintf("--%s=/proc/%d/ns/%[1]s", kind, h.pid) }
	return exec.CommandContext(ctx, "nsenter", append([]string{namespace("net"), namespace("uts"), program}, args...)...)
}

func (h *host) ip(line string) (string, error) {
	out, err := h.command(context.Background(), "ip", strings.Fields(line)...).CombinedOutput()
	return string(out), err
}

func (h *host) mustIP(t *testing.T, line string) {
	t.Helper()
	if out, err := h.ip(line); err != nil {
		t.Fatalf("%s: ip %s: %v\n%s", h.name, line, err, out)
	}
}

// server starts PostgreSQL on the host and returns its URL for this process, which reaches it through its socket, and for other hosts.
func (h *host) server(t *testing.T) (local, remote string) {
	t.Helper()
	cmd := h.command(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+roleServer)
	local, err := untilStdinEnds(t, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return local, "postgres://postgres@" + h.address + ":5432/postgres?sslmode=disable"
}

// untilStdinEnds starts a process that says a line when it is ready, which is returned, and ends with its standard input: when the test
// ends, or this process is killed.
func untilStdinEnds(t *testing.T, cmd *exec.Cmd) (line string, err error) {
	t.Helper()
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	t.Cleanup(func() {
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	line, err = bufio.NewReader(stdout).ReadString('\n')
	return strings.TrimSpace(line), err
}

// The roles of this test binary.
const (
	role       = "HOSTSTEST_ROLE"
	roleHost   = "host"
	roleServer = "server"
	roleBank   = "bank"

	hostName = "HOSTSTEST_NAME"
)

// hold is a host's process.
func hold() error {
	if err := syscall.Sethostname([]byte(os.Getenv(hostName))); err != nil {
		return err
	}
	return ready("ready")
}

// serve is a server's process.
func serve() error {
	binaries, err := pglocal.Find(os.Getenv)
	if err != nil {
		return err
	}
	server, err := pglocal.Start(context.Background(), binaries, pglocal.Options{Network: subnet})
	if err != nil {
		return err
	}
	return errors.Join(ready(server.URL("")), server.Stop())
}

func ready(line string) error {
	if _, err := fmt.Println(line); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
