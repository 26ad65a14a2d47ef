package pglocal

import (
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// process is a running program of PostgreSQL.
type process struct {
	*os.Process
	done chan struct{} // closed when it has ended
	err  error         // how it ended; to be read after done
}

// spawn starts the command as the account, in a process group of its own: Ctrl-C in the terminal is for us, and we stop
// the server in good order.
func spawn(cmd *exec.Cmd, a account) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.other {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	dieWithParent(cmd.SysProcAttr)
	cmd.Env = environ(os.Environ())

	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		// The death signal comes with the end of the thread, not of the process, that is the parent: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.Process = cmd.Process
		started <- nil
		p.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// environ is our environment without what would change the server or the language of its messages.
func environ(ours []string) []string {
	theirs := slices.DeleteFunc(slices.Clone(ours), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "LANGUAGE" || name == "TZ"
	})
	return append(theirs, "LC_ALL=C", "TZ=UTC")
}
