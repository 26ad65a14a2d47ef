package pglocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Standby makes a hot standby of a private server: a base backup of it, which streams from it. It is a server of its own, to be
// stopped by itself. Settings of the options are added to those that the backup has brought along. The context is for the start only.
func (s *Server) Standby(ctx context.Context, options Options) (*Server, error) {
	if !s.Private() {
		return nil, errors.New("a standby can be made of a private PostgreSQL only")
	}
	return create(ctx, s.binaries, options, func(ctx context.Context, folder string, a account) error {
		data := filepath.Join(folder, "data")
		args := []string{"-D", data, "-d", s.URL(""), "--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream"}
		if !options.Durable {
			args = append(args, "--no-sync")
		}
		if out, err := execute(ctx, s.binaries, "pg_basebackup", args, folder, a); err != nil {
			return fmt.Errorf("pg_basebackup of PostgreSQL %s into %s: %w\n%s", s.binaries.Version, data, err, out)
		}
		return configure(data, configuration(folder, options))
	})
}

// configure adds lines to postgresql.conf; of two for one setting PostgreSQL takes the last.
func configure(data, lines string) error {
	file, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(lines)
	return errors.Join(err, file.Close())
}
