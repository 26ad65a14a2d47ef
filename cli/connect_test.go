package cli_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/viewschema/projector/cli"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
)

// Without an sslmode, pgx tries TLS first. That this is refused is not what is wrong.
func TestWhatTheServerSaysAboutALogin(t *testing.T) {
	t.Parallel()
	address := overTCP(t, pgtest.DatabaseURL(t, nil))
	var stderr bytes.Buffer
	exit := cli.Run(t.Context(), v1.Definition, cli.Process{
		Args: []string{"bank", "--database-url", fmt.Sprintf("postgres://nobody_there:secret@%s/nowhere", address), "version"}, Stderr: &stderr,
	})
	said := fmt.Sprintf("bank: connecting to database nowhere at %s as nobody_there: FATAL: ", address)
	if exit != 1 || !strings.HasPrefix(stderr.String(), said) || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("exit code %d, %s", exit, &stderr)
	}

	stderr.Reset()
	exit = cli.Run(t.Context(), v1.Definition, cli.Process{
		Args: []string{"bank", "--database-url", fmt.Sprintf("postgres://ada:secret@%s/bank?sslmode=require", address), "version"}, Stderr: &stderr,
	})
	want := fmt.Sprintf("bank: connecting to database bank at %s as ada: tls error: server refused TLS connection\n", address)
	if exit != 1 || stderr.String() != want {
		t.Errorf("exit code %d, %s", exit, &stderr)
	}
}

// overTCP makes the tests' server, which may listen on a Unix socket only, known at a TCP port until the test ends. TLS is
// refused there.
func overTCP(t *testing.T, url string) (address string) {
	t.Helper()
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	})
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // the test has ended
			}
			go forward(client, config)
		}
	}()
	return listener.Addr().String()
}

// forward hangs up when anything goes wrong.
func forward(client net.Conn, config *pgconn.Config) {
	defer client.Close()
	var first [8]byte // a length and a code
	if _, err := io.ReadFull(client, first[:]); err != nil {
		return
	}
	if binary.BigEndian.Uint32(first[4:]) == tlsRequest {
		_, _ = client.Write([]byte("N"))
		return
	}
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	server, err := net.Dial(network, address)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer server.Close()
		_, _ = io.Copy(server, io.MultiReader(bytes.NewReader(first[:]), client))
	}()
	_, _ = io.Copy(client, server)
}

// tlsRequest is the code with which a client asks for TLS.
const tlsRequest = 80877103
