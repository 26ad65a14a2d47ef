package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Each part comes a delay after it was sent, however many are under way, and in order: the delay is one of propagation. The end
// takes as long as what came before it.
func TestDelayIsOfPropagation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const delay, parts = 10 * time.Millisecond, 100
		sender, from := net.Pipe()
		to, receiver := net.Pipe()
		go carry(to, from, delay, func(int) {})
		began := time.Now()
		go func() {
			for i := range parts {
				fmt.Fprintf(sender, "%03d", i)
				if i%10 == 9 {
					time.Sleep(time.Millisecond)
				}
			}
			sender.Close()
		}()
		buffer := make([]byte, 3)
		for i := range parts {
			if _, err := io.ReadFull(receiver, buffer); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("%03d", i); string(buffer) != want {
				t.Errorf("%s came instead of %s", buffer, want)
			}
			if took, want := time.Since(began), delay+time.Duration(i/10)*time.Millisecond; took != want {
				t.Errorf("part %d came after %s instead of %s", i, took, want)
			}
		}
		if _, err := receiver.Read(buffer); !errors.Is(err, io.EOF) {
			t.Errorf("%v instead of the end", err)
		}
		if took, want := time.Since(began), delay+10*time.Millisecond; took != want {
			t.Errorf("the end came after %s instead of %s", took, want)
		}
	})
}

// An end of what comes in one direction leaves the other one open.
func TestLinkCarriesHalfCloses(t *testing.T) {
	t.Parallel()
	l := linked(t, func(c *net.TCPConn) {
		all, err := io.ReadAll(c)
		fmt.Fprintf(c, "%s, %v", all, err)
		c.Close()
	})
	if _, err := l.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := l.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(l); err != nil || string(answer) != "hello, <nil>" {
		t.Errorf("%q, %v", answer, err)
	}
}

// A connection that breaks at one end breaks at the other.
func TestLinkCarriesErrors(t *testing.T) {
	t.Parallel()
	t.Run("of the server", func(t *testing.T) {
		t.Parallel()
		l := linked(t, func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1)) // what breaks at once can break while the client connects
			abort(c)
		})
		if _, err := l.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v", err)
		}
	})
	t.Run("of the client", func(t *testing.T) {
		t.Parallel()
		failed := make(chan error)
		l := linked(t, func(c *net.TCPConn) {
			defer c.Close()
			_, err := io.Copy(io.Discard, c)
			failed <- err
		})
		abort(l)
		if err := <-failed; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v", err)
		}
	})
	t.Run("of connecting", func(t *testing.T) {
		t.Parallel()
		l, err := newLink("unix", "/nowhere/at/all", 0)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		client, err := net.Dial("tcp", l.listener.Addr().String())
		if err == nil {
			defer client.Close()
			_, err = client.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v", err)
		}
	})
}

// What is large comes whole.
func TestLinkCarriesMuch(t *testing.T) {
	t.Parallel()
	l := linked(t, func(c *net.TCPConn) {
		defer c.Close()
		_, _ = io.Copy(c, c)
	})
	text := strings.Repeat("0123456789abcdef", 1<<16)
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = io.WriteString(l, text)
		_ = l.CloseWrite()
	})
	if echo, err := io.ReadAll(l); err != nil || string(echo) != text {
		t.Errorf("%d bytes of %d, %v", len(echo), len(text), err)
	}
	sending.Wait()
}

// linked connects to a server through a link.
func linked(t *testing.T, serve func(*net.TCPConn)) *net.TCPConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		if c, err := listener.Accept(); err == nil {
			serve(c.(*net.TCPConn))
		}
	}()
	l, err := newLink("tcp", listener.Addr().String(), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", l.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return client.(*net.TCPConn)
}
