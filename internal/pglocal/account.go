package pglocal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user that runs PostgreSQL.
type account struct {
	name     string
	uid, gid uint32
	other    bool // not the user that runs this program
}

// serverAccount returns the user that runs this program, or postgres or nobody if that is root: PostgreSQL refuses root.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{name: "this user", uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseInt(found.Uid, 10, 64)
		if err != nil {
			return account{}, fmt.Errorf("user %s has the id %s: %w", name, found.Uid, err)
		}
		gid, err := strconv.ParseInt(found.Gid, 10, 64)
		if err != nil {
			return account{}, fmt.Errorf("user %s has the group id %s: %w", name, found.Gid, err)
		}
		return account{name: "user " + name, uid: uint32(uid), gid: uint32(gid), other: true}, nil
	}
	return account{}, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody; " +
		"type: useradd --system postgres")
}

// enter reports, as an error, the first folder on the way to dir that the account may not enter. PostgreSQL itself would
// say no more than "permission denied", and of a file that is perfectly readable.
func (a account) enter(dir string) error {
	if !a.other {
		return nil
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if !a.mayEnter(info) {
			return fmt.Errorf("%s may not enter %s (mode %04o)", a.name, dir, info.Mode().Perm())
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (a account) owns(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == a.uid
}

func (a account) mayEnter(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return true
	case stat.Uid == a.uid:
		return info.Mode()&0o100 != 0
	case stat.Gid == a.gid:
		return info.Mode()&0o010 != 0
	default:
		return info.Mode()&0o001 != 0
	}
}
