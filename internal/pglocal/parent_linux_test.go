package pglocal_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/viewschema/projector/internal/pglocal"
)

// TestTheServerDiesWithItsParent kills the parent in a way that it cannot handle; the next start removes what it left.
func TestTheServerDiesWithItsParent(t *testing.T) {
	t.Parallel()
	temp := openTemp(t)
	pid, folder := killedParent(t, temp)
	waitUntil(t, func() bool { return !runs(pid) }, "the server outlives its parent")

	if _, err := os.Stat(folder); err != nil {
		t.Fatalf("the killed program's folder: %v; want it left", err)
	}
	server, err := start(t.Context(), pglocal.Options{TempDir: temp})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v; want it removed by the next start", folder, err)
	}
	if err := server.Stop(); err != nil {
		t.Error(err)
	}
}

// TestAnUnattendedServerLeavesNothing kills the parent, too: here nobody has to come and clean up.
func TestAnUnattendedServerLeavesNothing(t *testing.T) {
	t.Parallel()
	pid, folder := killedParent(t, openTemp(t), unattendedEnv+"=1")
	waitUntil(t, func() bool { return !runs(pid) }, "the server outlives its parent")
	waitUntil(t, func() bool { _, err := os.Stat(folder); return errors.Is(err, os.ErrNotExist) }, "the folder outlives the server")
}

func TestAnUnattendedServerCanBeStopped(t *testing.T) {
	t.Parallel()
	server, err := start(t.Context(), pglocal.Options{TempDir: openTemp(t), Unattended: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(server.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v; want it removed", server.Dir(), err)
	}
}

// killedParent starts a program that starts a server, and kills the program.
func killedParent(t *testing.T, temp string, env ...string) (pid int, folder string) {
	t.Helper()
	parent := exec.Command(os.Args[0])
	parent.Env = append(append(os.Environ(), childEnv+"="+temp), env...)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child has not started a server: %v", err)
	}
	if _, err := fmt.Sscan(line, &pid, &folder); err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // always an error: killed
	return pid, folder
}

func waitUntil(t *testing.T, done func() bool, complaint string) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(20 * time.Second)
	for !done() {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatal(complaint)
		}
	}
}

// runs is false for a process that has ended and that nobody has asked for yet: in a container nobody may ever.
func runs(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && !strings.Contains(string(status), "State:\tZ")
}
