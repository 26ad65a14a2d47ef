package viewschema_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pglocal"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// disk is a small file system that a test has mounted, with a tablespace on it.
type disk struct {
	t    *testing.T
	path string
	name string // of the tablespace
}

const diskSize = 16 * mebibyte

// onSmallDisk makes a database with the first release live, whose new tables come on a disk of their own.
func onSmallDisk(t *testing.T) (*pgxpool.Pool, *disk) {
	t.Helper()
	if os.Getenv("DATABASE_URL") != "" {
		t.Skip("the server that DATABASE_URL names cannot be given a disk")
	}
	db := pgtest.Database(t, atVersion1)
	d := &disk{t: t, path: mountDisk(t), name: fmt.Sprintf("small_%d", rand.Uint64())}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, _ = db.Exec(ctx, "drop schema view_schema cascade")
		if _, err := db.Exec(ctx, "drop tablespace "+d.name); err != nil {
			t.Error(err)
		}
	})
	data, err := os.Stat(scalar[string](t, db, "select current_setting('data_directory')"))
	if err != nil {
		t.Fatal(err)
	}
	folder, owner := filepath.Join(d.path, "tables"), data.Sys().(*syscall.Stat_t)
	if err := errors.Join(os.Mkdir(folder, 0o700), os.Chown(folder, int(owner.Uid), int(owner.Gid))); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "create tablespace "+d.name+" location '"+folder+"'")
	return connecting(t, db, func(c *pgx.ConnConfig) { c.RuntimeParams["default_tablespace"] = d.name }), d
}

// mountDisk mounts a file system for as long as the test lasts.
func mountDisk(t *testing.T) (path string) {
	t.Helper()
	path, err := os.MkdirTemp("/tmp", "disk-") // t.TempDir is closed to the user that runs PostgreSQL for root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(path) })
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", diskSize)); err != nil {
		t.Skipf("a file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

// fill writes a file until so much is free, or less if the server writes, too.
func (d *disk) fill(free int64) {
	var now syscall.Statfs_t
	if err := syscall.Statfs(d.path, &now); err != nil {
		d.t.Error(err)
	}
	err := os.WriteFile(filepath.Join(d.path, "others"), make([]byte, int64(now.Bavail)*now.Bsize-free), 0o600)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		d.t.Error(err)
	}
}

// grow makes the disk larger.
func (d *disk) grow() {
	d.t.Helper()
	if err := syscall.Mount("tmpfs", d.path, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", 4*diskSize)); err != nil {
		d.t.Fatal(err)
	}
}

// atBatch calls fn before the second batch of a rebuild is done.
type atBatch struct {
	fn func(ctx context.Context)

	mu    sync.Mutex
	batch int
}

func (a *atBatch) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !strings.Contains(data.SQL, "set events = $3") {
		return ctx
	}
	a.mu.Lock()
	a.batch++
	second := a.batch == 2
	a.mu.Unlock()
	if second {
		a.fn(ctx)
	}
	return ctx
}

func (*atBatch) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// tracing opens the second release on connections of its own.
func tracing(t *testing.T, db *pgxpool.Pool, o viewschema.Options, tracer pgx.QueryTracer) *viewschema.Schema {
	t.Helper()
	o.Workers = 1
	return wanting(t, connecting(t, db, func(c *pgx.ConnConfig) { c.Tracer = tracer }), o)
}

// A disk that fills up while a rebuild is under way stops it before it is full; when there is room again, it goes on, to the same rows.
// The batch that waits for the stop never ends without it.
func TestStopsBeforeADiskIsFull(t *testing.T) {
	t.Parallel()
	db, disk := onSmallDisk(t)
	s := tracing(t, db, viewschema.Options{Throttle: keepFree(diskSize / 2)}, &atBatch{fn: func(ctx context.Context) {
		disk.fill(diskSize / 4)
		select {
		case <-ctx.Done():
		case <-time.After(patience):
			t.Error("the rebuild is not stopped")
		}
	}})
	_, err := s.MigrateOnline(t.Context())
	if !errors.Is(err, viewschema.ErrSpace) || !strings.Contains(err.Error(), "are free on the volume of "+disk.path) {
		t.Fatal(err)
	}
	done := scalar[int](t, db, underWay+"done_at is not null")
	if pending := scalar[int](t, db, underWay+"done_at is null"); done != 1 || pending == 0 {
		t.Errorf("%d batches are done, and %d are not", done, pending)
	}
	if _, err := s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrSpace) {
		t.Errorf("with as little space, it ends with %v", err)
	}
	if again := scalar[int](t, db, underWay+"done_at is not null"); again != done {
		t.Errorf("%d batches are done", again)
	}
	disk.grow()
	online(t, s)
	offline(t, s)
	verify(t, db, 2)
}

// The WAL can have a disk of its own. And a data directory of the same name, such as a standby's, is not taken for the server's. The server
// does not notice what happens to the names of its folders: it has gone to its data directory once.
func TestWhereTheServerWrites(t *testing.T) {
	t.Parallel()
	small := mountDisk(t)
	server := pgtest.Server(t, filledStore, pglocal.Options{})
	db := pgtest.Pool(t, server.URL(""))
	s := wanting(t, db, viewschema.Options{Throttle: keepFree(2 * diskSize)})
	data := filepath.Join(server.Dir(), "data")
	wal := filepath.Join(data, "pg_wal")

	if err := errors.Join(os.Rename(wal, wal+"_former"), os.Symlink(small, wal)); err != nil {
		t.Fatal(err)
	}
	found, err := s.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	finding(t, found, "16.0 MB are free on the volume of "+small)
	finding(t, found, "are free on the volume of "+data)
	if err := errors.Join(os.Remove(wal), os.Rename(wal+"_former", wal)); err != nil {
		t.Fatal(err)
	}

	if err := errors.Join(os.Rename(data, data+"_former"), os.MkdirAll(filepath.Join(data, "pg_snapshots"), 0o755), os.Mkdir(filepath.Join(data, "pg_wal"), 0o755)); err != nil {
		t.Fatal(err)
	}
	_, err = s.MigrateOnline(t.Context())
	if !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "this is not the server's host") {
		t.Error(err)
	}
	if err := errors.Join(os.RemoveAll(data), os.Rename(data+"_former", data)); err != nil {
		t.Fatal(err)
	}
	online(t, s)
}

// Without a limit, a disk that is full ends a rebuild with an error that says what to do, and nothing is lost.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	db, disk := onSmallDisk(t)
	s := tracing(t, db, viewschema.Options{}, &atBatch{fn: func(context.Context) { disk.fill(0) }})
	_, err := s.MigrateOnline(t.Context())
	if err == nil || !strings.Contains(err.Error(), "No space left on device") || !strings.Contains(err.Error(), "type migrate online, which goes on") {
		t.Fatal(err)
	}
	disk.grow()
	online(t, s)
	offline(t, s)
	verify(t, db, 2)
}
