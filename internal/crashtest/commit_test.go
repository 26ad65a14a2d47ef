package crashtest

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
)

// The server commits and the answer is lost, once at each kind of commit of a migration: the client cannot know what
// happened and has to look. This was seen to fail with a cutover that is tried again without a look, and without the retry
// after a lost connection.
func TestAnswerToCommitLost(t *testing.T) {
	t.Parallel()
	url := pgtest.DatabaseURL(t, atVersion1)
	var armed atomic.Bool
	var lost atomic.Int64
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return &deafConn{Conn: conn, armed: &armed, lost: &lost}, err
	}
	faults := int64(0)
	migrateOver(t, url, func(c *pgxpool.Config) { c.ConnConfig.DialFunc = dial }, []pg.Moment{pg.Before}, func(pg.Moment, pg.Point) {
		faults++
		armed.Store(true)
	})
	if lost.Load() != faults || faults == 0 {
		t.Errorf("%d answers were lost, want %d", lost.Load(), faults)
	}
}

// deafConn loses the answer to a commit: the next that is sent while it is armed.
type deafConn struct {
	net.Conn
	armed *atomic.Bool
	lost  *atomic.Int64
	deaf  atomic.Bool
}

func (c *deafConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("commit\x00")) && c.armed.CompareAndSwap(true, false) {
		c.deaf.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.deaf.Load() { // the answer comes after the commit
		c.lost.Add(1)
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}
