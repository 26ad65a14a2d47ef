// Package dashboard shows a view schema to browsers and to Prometheus: a page that follows a migration, its numbers, and whether the
// database can be reached. It knows no secrets, has no authentication, and changes nothing.
package dashboard

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/viewschema/projector/viewschema"
)

// Source is what is shown. Its methods are called from several goroutines.
type Source interface {
	Overview(ctx context.Context) (*viewschema.Overview, error)
	Ping(ctx context.Context) error // nil: the database can be reached
}

// Limits of an answer.
const (
	overviewLimit = 25 * time.Second // counting the tail of a large ledger takes its time
	pingLimit     = 3 * time.Second
	shutdownLimit = 5 * time.Second
)

// Serve answers on l until ctx ends; what is being answered then has 5 s. It closes l. When it returns, nothing of it is left. What
// the log gets of errors may be more than what clients are told.
func Serve(ctx context.Context, l net.Listener, source Source, logger zerolog.Logger) error {
	s := newServer(ctx, source, logger)
	s.loopback = IsLoopback(l.Addr())
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      40 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          log.New(debugLog{logger}, "", 0),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		s.latest.working.Wait()
		return err
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	err := server.Shutdown(limited)
	if err != nil {
		err = server.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	s.latest.working.Wait()
	return err
}

// IsLoopback says whether only programs of this machine reach the address.
func IsLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// debugLog takes what net/http has to say about connections.
type debugLog struct{ zerolog.Logger }

func (l debugLog) Write(b []byte) (int, error) {
	l.Debug().Msg(strings.TrimSpace(string(b)))
	return len(b), nil
}

//go:embed page
var embedded embed.FS

// contentPolicy lets the page load its own files and the overview, and nothing else.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

type server struct {
	mux      *http.ServeMux
	source   Source
	latest   *latest
	loopback bool // only names of this machine are answered to
}

func newServer(ctx context.Context, source Source, logger zerolog.Logger) *server {
	s := &server{mux: http.NewServeMux(), source: source, latest: &latest{ctx: ctx, source: source, log: logger, limit: overviewLimit}}
	page, err := fs.Sub(embedded, "page")
	if err != nil {
		panic(err) // it is embedded
	}
	s.mux.Handle("/{$}", http.FileServerFS(page))
	for _, file := range []string{"page.css", "page.js", "icon.svg"} {
		s.mux.Handle("/"+file, http.FileServerFS(page))
	}
	s.mux.HandleFunc("/overview.json", s.overview)
	s.mux.HandleFunc("/metrics", s.metrics)
	s.mux.HandleFunc("/healthz", s.health)
	return s
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	switch {
	case s.loopback && !isLocalName(r.Host):
		// A page from elsewhere can have its own name resolve to this machine, and would then be of our origin.
		http.Error(w, "ask for localhost or 127.0.0.1: this page is for the machine that it is on", http.StatusForbidden)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "there is nothing to change here", http.StatusMethodNotAllowed)
	default:
		s.mux.ServeHTTP(w, r)
	}
}

// isLocalName says whether a Host header names this machine, on any port: it may be forwarded.
func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

func (s *server) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), pingLimit)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err := s.source.Ping(ctx); err != nil {
		s.latest.tell(err)
		w.WriteHeader(http.StatusServiceUnavailable)
		write(w, []byte("the database cannot be reached: "+reason(err)+"\n"))
		return
	}
	write(w, []byte("ok\n"))
}

// write writes an answer. A client that has gone does not get it.
func write(w http.ResponseWriter, b []byte) { _, _ = w.Write(b) }
