package crashtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// The server commits and the answer is lost, once at each kind of commit of a migration: the client cannot know what
// happened and has to look. This was seen to fail with a cutover that is tried again without a look, and without the retry
// after a lost connection.
func TestAnswerToCommitLost(t *testing.T) {
	t.Parallel()
	url := pgtest.DatabaseURL(t, atVersion1)
	var deaf deafness
	faults := int64(0)
	migrateOver(t, url, deaf.deafen, []pg.Moment{pg.Before}, func(pg.Moment, pg.Point) {
		faults++
		deaf.armed.Store(true)
	})
	if deaf.lost.Load() != faults || faults == 0 {
		t.Errorf("%d answers were lost, want %d", deaf.lost.Load(), faults)
	}
}

// deafness loses the answer to a commit: the next that is sent over one of its connections while it is armed.
type deafness struct {
	armed atomic.Bool
	lost  atomic.Int64
}

// deafen has a pool connect in this way.
func (d *deafness) deafen(c *pgxpool.Config) {
	c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return &deafConn{Conn: conn, of: d}, err
	}
}

type deafConn struct {
	net.Conn
	of   *deafness
	deaf atomic.Bool
}

func (c *deafConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("commit\x00")) && c.of.armed.CompareAndSwap(true, false) {
		c.deaf.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.deaf.Load() { // the answer comes after the commit
		c.of.lost.Add(1)
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// With events in another database, writers are let go when the answer to the cutover's commit is lost. What they append before
// it is known that the cutover has happened is said. Seen to pass in silence without the count after the look.
func TestAnswerToCutoverLostElsewhere(t *testing.T) {
	t.Parallel()
	for _, late := range []int{0, 2} {
		t.Run(strconv.Itoa(late), func(t *testing.T) {
			t.Parallel()
			url := pgtest.DatabaseURL(t, atVersion1)
			var deaf deafness
			events := connect(t, url, "events")
			views := connect(t, pgtest.DatabaseURL(t, nil), "projector", deaf.deafen)
			s, err := viewschema.Open(views, version2(), viewschema.Options{Events: events})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.MigrateOnline(t.Context()); err != nil {
				t.Fatal(err)
			}
			appended := false
			_, err = s.MigrateOffline(pg.WithFault(t.Context(), func(moment pg.Moment, point pg.Point) {
				switch {
				case moment == pg.Before && point == pg.PointCutover:
					deaf.armed.Store(true)
				case deaf.lost.Load() > 0 && !appended:
					appended = true
					if late > 0 {
						appendEvents(t, url, late, 9)
					}
				}
			}))
			switch {
			case deaf.lost.Load() != 1 || !appended:
				t.Fatalf("%d answers were lost, appended %v", deaf.lost.Load(), appended)
			case late == 0 && err != nil, late > 0 && !errors.Is(err, viewschema.ErrLockLost):
				t.Errorf("%d events came after the lock was gone: %v", late, err)
			}
			if v, err := s.CurrentVersion(t.Context()); v != 2 || err != nil {
				t.Errorf("version %d: %v", v, err)
			}
		})
	}
}
