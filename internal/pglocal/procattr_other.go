//go:build unix && !linux

package pglocal

import "syscall"

// dieWithParent does nothing: only Linux ties a process to its parent. Stop is the only end of the server here.
func dieWithParent(*syscall.SysProcAttr) {}
