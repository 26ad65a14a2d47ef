//go:build linux || darwin

package viewschema

import (
	"fmt"
	"os"
	"syscall"
)

// statfs tells which file system a folder is on, and how many bytes who is not root may still write there.
func statfs(folder string) (device uint64, free int64, err error) {
	info, err := os.Stat(folder)
	if err != nil {
		return 0, 0, err
	}
	var of syscall.Statfs_t
	if err := syscall.Statfs(folder, &of); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: folder, Err: err}
	}
	file, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("%s: the file system is not told", folder)
	}
	return uint64(file.Dev), int64(of.Bavail) * int64(of.Bsize), nil //nolint:unconvert // it has 32 bits on macOS
}
