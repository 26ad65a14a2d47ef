package pglocal

import "syscall"

// dieWithParent makes the kernel send SIGQUIT, PostgreSQL's immediate shutdown, when the thread that started it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
