package projections_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/projections"
)

// deaf is a connection on which nothing is heard any more once rows are sent, although they seem to be taken.
type deaf struct {
	net.Conn
	copying atomic.Bool
	close   sync.Once
	closed  chan struct{}
}

func (c *deaf) Write(p []byte) (int, error) {
	if !c.copying.Load() {
		if p[0] != 'd' {
			return c.Conn.Write(p)
		}
		c.copying.Store(true)
		_ = c.SetReadDeadline(time.Now()) // ends the Read that waits
	}
	<-c.closed // from here on, pgx has given up, and still sends
	return len(p), nil
}

func (c *deaf) Close() error {
	c.close.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *deaf) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.copying.Load() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// A run can be used again after its connection was lost while it stored rows. Seen to be a data race when it filled buffers again which
// pgx was still sending.
func TestRunAfterALostConnection(t *testing.T) {
	t.Parallel()
	pool, set := bank(t)
	config := pool.Config().ConnConfig
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return &deaf{Conn: conn, closed: make(chan struct{})}, err
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	var events []*projections.Raw
	for i := range 40 {
		data := fmt.Sprintf(`{"owner_name":"%s","iban":"%d"}`, strings.Repeat("x", 256<<10), i)
		events = append(events, ev(int64(i+1), uuid.UUID{byte(i)}, 1, "AccountOpened", data))
	}
	run := set.Rebuild()
	if _, err := apply(t.Context(), conn, run, events...); err == nil || !conn.IsClosed() {
		t.Fatalf("got %v on a connection that is lost", err)
	}
	if n, err := apply(t.Context(), pool, run, events...); err != nil || n != int64(len(events)) {
		t.Errorf("the next batch stored %d rows: %v", n, err)
	}
}
