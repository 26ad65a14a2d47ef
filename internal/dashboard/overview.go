package dashboard

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/viewschema"
)

// latest reads the overview for all who ask for it, once for those who ask at the same time, and at most once a second. A database
// that takes long for it is asked less often: at least three quarters of the time it is left alone.
type latest struct {
	ctx     context.Context //nolint:containedctx // that of the server: an overview is not read for one request alone
	source  Source
	log     zerolog.Logger
	limit   time.Duration
	working sync.WaitGroup

	mu   sync.Mutex
	last *reading // nil: none yet
	told string   // the last error that was logged
}

// reading is an overview that is read, or was.
type reading struct {
	done chan struct{} // closed when it was, and then the others are set
	next time.Time     // when there may be another one

	overview *viewschema.Overview // nil: err
	json     []byte
	zipped   []byte
	err      error
}

// get returns a reading that is done, or the error of the context.
func (l *latest) get(ctx context.Context) (*reading, error) {
	l.mu.Lock()
	r := l.last
	if r == nil || r.isOld() {
		r = &reading{done: make(chan struct{})}
		l.last = r
		l.working.Go(func() { l.read(r) })
	}
	l.mu.Unlock()
	select {
	case <-r.done:
		return r, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *reading) isOld() bool {
	select {
	case <-r.done:
		return !time.Now().Before(r.next)
	default:
		return false
	}
}

func (l *latest) read(r *reading) {
	defer close(r.done)
	began := time.Now()
	ctx, cancel := context.WithTimeout(l.ctx, l.limit)
	defer cancel()
	if r.overview, r.err = l.source.Overview(ctx); r.err == nil {
		r.json, r.err = json.Marshal(r.overview)
	}
	if r.err == nil {
		r.zipped, r.err = zip(r.json)
	}
	l.tell(r.err)
	r.next = began.Add(max(time.Second, 4*time.Since(began)))
}

func zip(b []byte) ([]byte, error) {
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestSpeed)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	return zipped.Bytes(), err
}

// tell logs an error once; clients are told its reason only.
func (l *latest) tell(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != l.told && text != "" && l.ctx.Err() == nil {
		l.log.Warn().Err(err).Msg("the page cannot be brought up to date")
	}
	l.told = text
}

func (s *server) overview(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Encoding")
	o, err := s.latest.get(r.Context())
	switch {
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
		text, _ := json.Marshal(map[string]string{"error": reason(err)}) // of a text there is always one
		write(w, text)
	case strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"):
		h.Set("Content-Encoding", "gzip")
		write(w, o.zipped)
	default:
		write(w, o.json)
	}
}

// reason says what is wrong without what only the log may have: names of hosts and users, and what the server quotes.
func reason(err error) string {
	var network net.Error
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	said, isSaid := errors.AsType[*pgconn.PgError](err)
	switch {
	case isSaid:
		return "the server refuses with SQLSTATE " + said.Code + "; the log of this process says more"
	case errors.Is(err, context.DeadlineExceeded):
		return "it takes too long"
	case errors.Is(err, context.Canceled):
		return "this process is ending"
	case connecting, errors.As(err, &network):
		return "there is no connection; the log of this process says more"
	case errors.Is(err, viewschema.ErrBookkeeping):
		return viewschema.ErrBookkeeping.Error() + "; the log of this process says more"
	case errors.Is(err, viewschema.ErrDefinition):
		return viewschema.ErrDefinition.Error() + "; the log of this process says more"
	}
	return "the log of this process says why"
}
