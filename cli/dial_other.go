//go:build !linux

package cli

import (
	"syscall"
	"time"
)

// setUserTimeout does nothing: there are keepalives, and the system's own patience for what is not acknowledged.
func setUserTimeout(syscall.RawConn, time.Duration) error { return nil }
