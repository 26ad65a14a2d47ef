package pglocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Standby makes a hot standby of a private server: a base backup of it, which streams from it. It is a server of its own, to be
// stopped by itself. Settings of the options are added to those that the backup has brought along. The context is for the start only.
//
// Where there is no pg_basebackup, as in the packages of npm, the server is restarted to be copied, and ends its sessions.
func (s *Server) Standby(ctx context.Context, options Options) (*Server, error) {
	if !s.Private() {
		return nil, errors.New("a standby can be made of a private PostgreSQL only")
	}
	return create(ctx, s.binaries, options, func(ctx context.Context, folder string, a account) error {
		data, settings := filepath.Join(folder, "data"), configuration(folder, options)
		program := filepath.Join(s.binaries.Dir, "pg_basebackup")
		if _, err := os.Stat(program); errors.Is(err, os.ErrNotExist) {
			settings += fmt.Sprintf("primary_conninfo = '%s'\n", s.URL(""))
			return errors.Join(s.copyTo(ctx, data, a), configure(data, settings))
		}
		args := []string{"-D", data, "-d", s.URL(""), "--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream"}
		if !options.Durable {
			args = append(args, "--no-sync")
		}
		if out, err := execute(ctx, program, args, folder, a); err != nil {
			return fmt.Errorf("pg_basebackup of PostgreSQL %s into %s: %w\n%s", s.binaries.Version, data, err, out)
		}
		return configure(data, settings)
	})
}

// copyTo stops the server in good order, copies its data folder for a standby, and starts it again.
func (s *Server) copyTo(ctx context.Context, data string, a account) error {
	if err := s.process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("stop PostgreSQL, process %d: %w", s.PID(), err)
	}
	select {
	case <-s.process.done:
	case <-ctx.Done():
		return fmt.Errorf("PostgreSQL, process %d, does not end: %w", s.PID(), ctx.Err())
	}
	folder := filepath.Dir(data)
	out, err := execute(ctx, "/bin/cp", []string{"-a", filepath.Join(s.folder, "data"), data}, folder, a)
	if err == nil {
		out, err = execute(ctx, "/usr/bin/touch", []string{filepath.Join(data, "standby.signal")}, folder, a)
	}
	if err != nil {
		err = fmt.Errorf("copy PostgreSQL %s into %s: %w\n%s", s.binaries.Version, data, err, out)
	}
	return errors.Join(err, s.start(ctx))
}

// configure adds lines to postgresql.conf; of two for one setting PostgreSQL takes the last.
func configure(data, lines string) error {
	return appendTo(filepath.Join(data, "postgresql.conf"), lines)
}

func appendTo(name, lines string) error {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(lines)
	return errors.Join(err, file.Close())
}
