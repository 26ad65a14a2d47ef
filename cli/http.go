package cli

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/internal/dashboard"
	"github.com/viewschema/projector/viewschema"
)

// serveCommand shows the page until it is interrupted.
func (p *program) serveCommand() *urfave.Command {
	flag := httpFlag()
	flag.Value, flag.DefaultText = "127.0.0.1:8080", ""
	flag.Usage = "the address to listen on"
	return &urfave.Command{
		Name:   "serve",
		Usage:  "show the migration on a page, its numbers at /metrics for Prometheus, and /healthz, until interrupted",
		Flags:  []urfave.Flag{flag},
		Action: p.action(serve),
	}
}

// httpFlag is that of commands that can show the page while they are at work.
func httpFlag() *urfave.StringFlag {
	return &urfave.StringFlag{
		Name: "http", DefaultText: "no page",
		Usage: "show a page about the migration at this address while the command is at work, such as 127.0.0.1:8080",
	}
}

// listen takes the address of --http; nil: none is wanted. It is taken before anything else is done.
func (p *program) listen(c *urfave.Context) (net.Listener, error) {
	address := c.String("http")
	if address == "" {
		return nil, nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, usagef("--http %s: write host:port, such as 127.0.0.1:8080", address)
	}
	l, err := (&net.ListenConfig{}).Listen(c.Context, "tcp", address)
	if err != nil {
		return nil, usagef("--http %s: %v; choose another address", address, err)
	}
	return l, nil
}

// page is the page beside a command.
type page struct {
	url  string
	end  context.CancelFunc
	done chan error
}

// showPage begins to serve on l, which may be nil.
func (s *session) showPage(l net.Listener) {
	if l == nil {
		return
	}
	ctx, end := context.WithCancel(context.WithoutCancel(s.flags.Context)) // the page is there until the command has ended
	s.page = &page{url: "http://" + l.Addr().String(), end: end, done: make(chan error, 1)}
	if s.flags.Command.Name != "serve" { // whose answer it is
		s.log.Info().Str("url", s.page.url).Msg("the page is there while this command is at work")
	}
	if !dashboard.IsLoopback(l.Addr()) {
		s.log.Warn().Str("address", l.Addr().String()).Msg("the page can be seen from other machines, and it has no authentication")
	}
	source := pageSource{s.schema, s.pool}
	go func() { s.page.done <- dashboard.Serve(ctx, l, source, s.log) }()
}

// close ends the page, if there is one, and waits until it has.
func (g *page) close(log zerolog.Logger) {
	if g == nil {
		return
	}
	g.end()
	if err := <-g.done; err != nil {
		log.Warn().Err(err).Msg("the page has ended with an error")
	}
}

// pageSource is what the page shows.
type pageSource struct {
	*viewschema.Schema
	pool *pgxpool.Pool
}

// Ping implements dashboard.Source.
func (s pageSource) Ping(ctx context.Context) error { return s.pool.Ping(ctx) }

// serveView is where the page is.
type serveView struct {
	Type string `json:"type"`
	URL  string `json:"url"`
}

func (v serveView) text(w io.Writer, _ string) { fmt.Fprintf(w, "the page is at %s\n", v.URL) }

func serve(ctx context.Context, s *session) error {
	if s.page == nil {
		return usagef("serve --http: at which address? the default is 127.0.0.1:8080")
	}
	if err := s.answer(serveView{Type: "serve", URL: s.page.url}); err != nil {
		return err
	}
	select {
	case err := <-s.page.done:
		s.page.done <- nil // for close
		return fmt.Errorf("serving the page: %w", err)
	case <-ctx.Done():
		return &quietError{exitInterrupted} // there is nothing to go on with
	}
}
