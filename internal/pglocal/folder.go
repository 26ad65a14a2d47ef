package pglocal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	folderPrefix = "projector-pg-"

	port       = "5432"
	socketFile = ".s.PGSQL." + port
	// longestSocket is below the 104 bytes that macOS allows and the 108 of Linux.
	longestSocket = 100
)

// newFolder makes the folder that holds data, log and socket, in temp or, if that does not do, in /tmp. Only the account
// can enter it: whoever reaches the socket is superuser.
func newFolder(temp string, a account) (string, error) {
	places := []string{temp, "/tmp"}
	if temp == "" || temp == "/tmp" {
		places = places[1:]
	}
	var refused []error
	for _, place := range places {
		folder, err := folderIn(place, a)
		if err == nil {
			return folder, nil
		}
		refused = append(refused, err)
	}
	return "", fmt.Errorf("no folder for a private PostgreSQL: %w; set TMPDIR to a folder with a short name that %s may enter",
		errors.Join(refused...), a.name)
}

func folderIn(place string, a account) (string, error) {
	place, err := filepath.Abs(place)
	if err != nil {
		return "", err
	}
	if err := a.enter(place); err != nil {
		return "", err
	}
	sweep(place, a)
	folder, err := os.MkdirTemp(place, folderPrefix)
	if err != nil {
		return "", err
	}
	if socket := filepath.Join(folder, socketFile); len(socket) > longestSocket {
		return "", errors.Join(fmt.Errorf("the socket's name %s has more than %d bytes", socket, longestSocket), os.Remove(folder))
	}
	if a.other {
		if err := os.Chown(folder, int(a.uid), int(a.gid)); err != nil {
			return "", errors.Join(err, os.Remove(folder))
		}
	}
	return folder, nil
}
