package pglocal

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// watcher is a shell that outlives this program for as long as it takes to clean up.
type watcher struct {
	cmd  *exec.Cmd
	life *os.File // the shell reads its other end until this program ends
}

// watchScript stops the server if the end of this program has not done so, and removes its folder, $0. PostgreSQL removes
// postmaster.pid when it has ended.
const watchScript = `cat > /dev/null
while pid=$(head -n 1 "$0/data/postmaster.pid" 2> /dev/null) && kill -QUIT "$pid" 2> /dev/null; do sleep 0.1; done
rm -rf "$0"`

func watch(folder string) (*watcher, error) {
	read, write, err := os.Pipe() // that other programs that we start do not inherit
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/sh", "-c", watchScript, folder)
	cmd.Dir, cmd.Stdin = "/", read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in the terminal is for us
	if err := errors.Join(cmd.Start(), read.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("watch over the private PostgreSQL in %s: %w", folder, err), write.Close())
	}
	return &watcher{cmd, write}, nil
}

// end ends the watcher before it does anything.
func (w *watcher) end() error {
	err := w.cmd.Process.Kill()
	_ = w.cmd.Wait() // always an error: killed
	return errors.Join(err, w.life.Close())
}
