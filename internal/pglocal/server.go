package pglocal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startTimeout     = time.Minute
	fastTimeout      = 15 * time.Second // for a shutdown that ends sessions in good order
	immediateTimeout = 5 * time.Second
)

// Options say what a private PostgreSQL is for.
type Options struct {
	// Durable keeps fsync and its like on. Without it a crash of the machine, though not of the server, can lose data.
	Durable bool
	// Settings are added to postgresql.conf.
	Settings map[string]string
	// Network, such as 10.9.0.0/24, lets in over TCP, as superuser, whoever has an address in it. It is for a network of a test's own.
	Network string
	// TempDir is where the server's folder is made. /tmp stands in if it is empty or does not do.
	TempDir string
	// Unattended is for a caller who cannot Stop the server: it is stopped, and its folder removed, when this program ends,
	// however it ends.
	Unattended bool
}

// Server is a private PostgreSQL, or the one that DATABASE_URL names.
type Server struct {
	base    string // a URL or a keyword string
	folder  string
	owner   *os.File // open for as long as the folder is in use
	process *process
	watcher *watcher                        // nil, unless the server is unattended
	start   func(ctx context.Context) error // of an initialized cluster
	stop    func() error
}

// Open returns the server that DATABASE_URL names, which Stop leaves alone, or starts a private one.
func Open(ctx context.Context, env func(string) string, options Options) (*Server, error) {
	if base := env("DATABASE_URL"); base != "" {
		return &Server{base: base, stop: func() error { return nil }}, nil
	}
	binaries, err := Find(env)
	if err != nil {
		return nil, err
	}
	if options.TempDir == "" {
		options.TempDir = env("TMPDIR")
	}
	return Start(ctx, binaries, options)
}

// Start makes a new cluster and returns when it accepts connections. The superuser is postgres, without a password.
// The context is for the start only.
func Start(ctx context.Context, binaries Binaries, options Options) (_ *Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	a, err := serverAccount()
	if err != nil {
		return nil, err
	}
	if err := a.enter(binaries.Dir); err != nil {
		return nil, fmt.Errorf("PostgreSQL in %s cannot run: %w; install PostgreSQL for all users, or set %s", binaries.Dir, err, BinEnv)
	}
	folder, err := newFolder(options.TempDir, a)
	if err != nil {
		return nil, err
	}
	s := &Server{base: "postgres://postgres@/postgres?host=" + url.QueryEscape(folder) + "&port=" + port, folder: folder}
	s.stop = sync.OnceValue(s.shutDown)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if s.owner, err = own(folder); err != nil {
		return nil, err
	}
	if err := initialize(ctx, binaries, options, folder, a); err != nil {
		return nil, err
	}
	s.start = func(ctx context.Context) error { return s.launch(ctx, binaries, a) }
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if options.Unattended {
		s.watcher, err = watch(folder)
	}
	return s, err
}

// Crash kills a private server and starts it again; it returns when the server has recovered and accepts connections.
// Nothing else may use s meanwhile.
func (s *Server) Crash(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.process.Kill(); err != nil {
		return fmt.Errorf("kill PostgreSQL, process %d: %w", s.PID(), err)
	}
	<-s.process.done
	for {
		err := s.start(ctx)
		// The sessions find out by themselves that the server is gone, and keep the next one from starting until they do.
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "shared memory block") {
			return err
		}
	}
}

// initialize makes the data folder and writes its settings.
func initialize(ctx context.Context, binaries Binaries, options Options, folder string, a account) error {
	data := filepath.Join(folder, "data")
	args := []string{"-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8"}
	if !options.Durable {
		args = append(args, "--no-sync")
	}
	out, err := initdb(ctx, binaries, append(args, "--locale=C.UTF-8"), folder, a)
	if err != nil && strings.Contains(out, "locale") {
		out, err = initdb(ctx, binaries, append(args, "--locale=C"), folder, a)
	}
	if err != nil {
		return fmt.Errorf("initdb of PostgreSQL %s in %s: %w\n%s", binaries.Version, data, err, out)
	}
	if options.Network != "" {
		if err := appendTo(filepath.Join(data, "pg_hba.conf"), "host all postgres "+options.Network+" trust\n"); err != nil {
			return err
		}
	}
	return appendTo(filepath.Join(data, "postgresql.conf"), configuration(folder, options))
}

func appendTo(name, text string) error {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

func initdb(ctx context.Context, binaries Binaries, args []string, folder string, a account) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(binaries.Dir, "initdb"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = folder, &out, &out
	p, err := spawn(cmd, a)
	if err != nil {
		return "", err
	}
	<-p.done
	return out.String(), p.err
}

// configuration is what is appended to postgresql.conf; of two lines for one setting PostgreSQL takes the last.
func configuration(folder string, options Options) string {
	settings := map[string]string{
		"listen_addresses":        "",
		"port":                    port,
		"unix_socket_directories": folder,
		"unix_socket_permissions": "0700",
	}
	if options.Network != "" {
		settings["listen_addresses"] = "*"
	}
	if !options.Durable {
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
		settings["synchronous_commit"] = "off"
	}
	maps.Copy(settings, options.Settings)
	var b strings.Builder
	b.WriteString("\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	return b.String()
}

// launch starts postgres and waits until it accepts a connection.
func (s *Server) launch(ctx context.Context, binaries Binaries, a account) error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // postgres has its own descriptor
	// No CommandContext: the context ends with the start, the server does not.
	cmd := exec.Command(filepath.Join(binaries.Dir, "postgres"), "-D", filepath.Join(s.folder, "data"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.folder, log, log
	if s.process, err = spawn(cmd, a); err != nil {
		return fmt.Errorf("start PostgreSQL %s: %w", binaries.Version, err)
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := s.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.process.done:
			return fmt.Errorf("PostgreSQL %s ended while starting: %w\n%s", binaries.Version, s.process.err, s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL %s does not accept connections: %w (%w)\n%s", binaries.Version, err, ctx.Err(), s.logTail())
		case <-ticker.C:
		}
	}
}

func (s *Server) ping(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.URL(""))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func (s *Server) logFile() string { return filepath.Join(s.folder, "log") }

func (s *Server) logTail() string {
	const lines = 20
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// URL returns the connection string of a database, in a form that pgx and psql accept. Without a name it is the database
// that is always there: postgres, or the one in DATABASE_URL.
func (s *Server) URL(database string) string {
	if database == "" {
		return s.base
	}
	parsed, err := url.Parse(s.base)
	if err != nil || parsed.Scheme == "" { // keywords: the last of two equal ones counts
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database)
		return s.base + " dbname='" + quoted + "'"
	}
	parsed.Path = "/" + database
	return parsed.String()
}

// Private reports whether the server is ours, and not the one that DATABASE_URL names.
func (s *Server) Private() bool { return s.folder != "" }

// Dir is the folder of a private server; data and log are in it, and so is the socket.
func (s *Server) Dir() string { return s.folder }

// PID is the process id of a private server.
func (s *Server) PID() int {
	if s.process == nil {
		return 0
	}
	return s.process.Pid
}

// Stop ends a private server, with its sessions, and removes its folder. To stop twice does no harm.
func (s *Server) Stop() error { return s.stop() }

func (s *Server) shutDown() error {
	if s.process == nil {
		return s.remove()
	}
	for _, step := range []struct {
		signal  syscall.Signal
		timeout time.Duration
	}{{syscall.SIGINT, fastTimeout}, {syscall.SIGQUIT, immediateTimeout}, {syscall.SIGKILL, immediateTimeout}} {
		err := s.process.Signal(step.signal)
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop PostgreSQL, process %d: %w", s.PID(), err)
		}
		select {
		case <-s.process.done:
			return s.remove()
		case <-time.After(step.timeout):
		}
	}
	return fmt.Errorf("PostgreSQL, process %d, does not end; its folder is %s", s.PID(), s.folder)
}

func (s *Server) remove() error {
	var err error
	if s.watcher != nil {
		err = s.watcher.end()
	}
	err = errors.Join(err, os.RemoveAll(s.folder))
	if s.owner != nil {
		err = errors.Join(err, s.owner.Close())
	}
	return err
}
