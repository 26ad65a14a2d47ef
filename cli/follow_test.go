package cli_test

import (
	"bufio"
	"io"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/cli"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
)

// Following says what each pass found, and at the cutover that it is over.
func TestFollow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		args []string
		want []string // lines
	}{
		{"text", []string{"bank", "--no-progress", "migrate", "catchup", "--follow"}, []string{
			`^version 1 has caught up: 1 event, 1 row, in .*s$`,
			`^version 1 is live$`,
		}},
		{"json", []string{"bank", "--json", "--no-progress", "migrate", "online", "--follow"}, []string{
			`^{"type":"result","command":"migrate online",.*"nothing":true,`,
			`^{"type":"result","command":"migrate catchup",.*"state":"built",.*"events":1,"rows":1,`,
			`^{"type":"result","command":"follow","from":0,"to":1,"state":"active","nothing":false,.*"events":1,"rows":1,`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.DatabaseURL(t, filledStore)
			bank := func(out io.Writer, args ...string) int {
				return cli.Run(t.Context(), v1.Definition, cli.Process{Args: args, Stdout: out, Stderr: t.Output(), Getenv: func(name string) string {
					return map[string]string{"DATABASE_URL": url}[name]
				}})
			}
			if exit := bank(nil, "bank", "migrate", "online"); exit != 0 {
				t.Fatalf("migrate online: exit code %d", exit)
			}
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			_, err = conn.Exec(t.Context(), `
				insert into events (aggregate_id, sequence_number, event_type, data)
				values (gen_random_uuid(), 1, 'AccountOpened', '{"owner_name": "Ada", "iban": "NL00", "currency": "EUR", "branch": "Gent"}')`)
			if err != nil {
				t.Fatal(err)
			}

			out, in := io.Pipe()
			ended := make(chan int, 1)
			go func() {
				ended <- bank(in, test.args...)
				in.Close()
			}()
			var got []string
			for lines := bufio.NewScanner(out); lines.Scan(); {
				got = append(got, lines.Text())
				if len(got) != len(test.want)-1 { // the event is there: all that is missing is the cutover
					continue
				}
				if exit := bank(nil, "bank", "migrate", "offline"); exit != 0 {
					t.Fatalf("migrate offline: exit code %d", exit)
				}
			}
			if exit := <-ended; exit != 0 {
				t.Errorf("exit code %d", exit)
			}
			if len(got) != len(test.want) {
				t.Errorf("%d lines, want %d", len(got), len(test.want))
			}
			for i, line := range got {
				if i >= len(test.want) || !regexp.MustCompile(test.want[i]).MatchString(line) {
					t.Errorf("got %s", line)
				}
			}
		})
	}
}
