package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is a network between programs and a server, in which every byte takes a delay, one way: a propagation delay. It bounds
// no throughput, and the kernel's windows know nothing of it.
type link struct {
	listener        net.Listener
	network, server string // to dial
	delay           time.Duration
	accepting       sync.WaitGroup
	connections     sync.WaitGroup
	sent            traffic
}

// traffic is what has gone over a link.
type traffic struct {
	there, back atomic.Int64 // bytes, to the server and from it
	roundTrips  atomic.Int64 // how often a program has begun to say something after the server had answered, on any connection
}

func (t *traffic) String() string {
	return fmt.Sprintf("%.1f MiB to the server and %.1f MiB from it in %s round trips", mebibytes(t.there.Load()), mebibytes(t.back.Load()), number(int(t.roundTrips.Load())))
}

// newLink makes a link to a server. It listens on a port of the loopback interface.
func newLink(network, server string, delay time.Duration) (*link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: listener, network: network, server: server, delay: delay}
	l.accepting.Go(l.accept)
	return l, nil
}

// Close ends the link when all connections have ended.
func (l *link) Close() error {
	err := l.listener.Close()
	l.accepting.Wait()
	l.connections.Wait()
	return err
}

func (l *link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		l.connections.Go(func() { l.connect(client) })
	}
}

// connect takes a round trip, as the handshake would have.
func (l *link) connect(client net.Conn) {
	time.Sleep(2 * l.delay)
	server, err := net.Dial(l.network, l.server)
	if err != nil {
		abort(client)
		return
	}
	var both sync.WaitGroup
	var asked atomic.Bool
	both.Go(func() {
		carry(server, client, l.delay, func(bytes int) {
			l.sent.there.Add(int64(bytes))
			if !asked.Swap(true) {
				l.sent.roundTrips.Add(1)
			}
		})
	})
	both.Go(func() {
		carry(client, server, l.delay, func(bytes int) {
			l.sent.back.Add(int64(bytes))
			asked.Store(false)
		})
	})
	both.Wait()
	client.Close()
	server.Close()
}

// mostUnderWay bounds what a connection has under way in one direction: that many reads of at most readSize bytes.
const (
	mostUnderWay = 1024
	readSize     = 64 << 10
)

// parcel is what was read at once, or why there is no more.
type parcel struct {
	due   time.Time
	bytes []byte
	end   bool // nothing more will come
	lost  bool // the connection it came from is broken
}

// carry brings what comes from one connection to another, in order, each part a delay after it came. The end of what comes is
// brought as well, and the other direction goes on; an error breaks both connections. Count is told how many bytes came.
func carry(to, from net.Conn, delay time.Duration, count func(bytes int)) {
	underWay := make(chan parcel, mostUnderWay)
	go receive(from, delay, count, underWay)
	for p := range underWay {
		time.Sleep(time.Until(p.due))
		if p.lost {
			abort(to)
		} else if p.end {
			closeWrite(to)
		} else if _, err := to.Write(p.bytes); err != nil {
			abort(from) // ends receive
		}
	}
}

// receive ends with the connection.
func receive(from net.Conn, delay time.Duration, count func(bytes int), underWay chan<- parcel) {
	defer close(underWay)
	buffer := make([]byte, readSize)
	for {
		n, err := from.Read(buffer)
		due := time.Now().Add(delay)
		if n > 0 {
			count(n)
			underWay <- parcel{due: due, bytes: bytes.Clone(buffer[:n])}
		}
		if err != nil {
			underWay <- parcel{due: due, end: true, lost: !errors.Is(err, io.EOF)}
			return
		}
	}
}

// closeWrite tells the other end that nothing more will come.
func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // if the connection is broken, its reader finds out
		return
	}
	c.Close()
}

// abort breaks a connection, so that the other end sees that and not an end in good order, where its kind can tell them apart.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
