package pglocal

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ownerFile is locked by the program that owns the folder, for as long as that program lives.
const ownerFile = "owner"

// own marks the folder as in use until the file is closed or this program ends, however it ends.
func own(folder string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(folder, ownerFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// sweep removes the folders of programs that were killed. A folder that it cannot remove is no reason not to start.
func sweep(place string, a account) {
	for _, folder := range glob(filepath.Join(place, folderPrefix+"*")) {
		info, err := os.Lstat(folder)
		if err != nil || !info.IsDir() || !a.owns(info) || !ownerless(folder) {
			continue
		}
		_ = os.RemoveAll(folder)
	}
}

// ownerless is false in doubt: while the folder is being made, and while a server runs in it without its parent.
func ownerless(folder string) bool {
	file, err := os.OpenFile(filepath.Join(folder, ownerFile), os.O_RDWR|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil && !serverRuns(folder)
}

// serverRuns reads the process id that PostgreSQL leaves in its data folder and removes when it ends in good order.
func serverRuns(folder string) bool {
	text, err := os.ReadFile(filepath.Join(folder, "data", "postmaster.pid"))
	if err != nil {
		return false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	return err == nil && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}
