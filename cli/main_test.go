package cli_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/cli"
	v1 "github.com/viewschema/projector/examples/bank/v1"
	"github.com/viewschema/projector/internal/pgtest"
)

// asBank makes the test binary the bank's command line.
const asBank = "TEST_AS_BANK"

func TestMain(m *testing.M) {
	if os.Getenv(asBank) != "" {
		cli.Main(v1.Definition)
	}
	pgtest.Main(m)
}

// A signal ends a migration that waits for an open transaction, in an orderly way.
func TestSignal(t *testing.T) {
	t.Parallel()
	url := pgtest.DatabaseURL(t, filledStore)
	writer, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(t.Context())
	if _, err := writer.PgConn().Exec(t.Context(), "begin; lock table events in row exclusive mode").ReadAll(); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // if it never waits
	defer cancel()
	bank := exec.CommandContext(ctx, os.Args[0], "migrate", "online")
	bank.Env = append(os.Environ(), asBank+"=1", "DATABASE_URL="+url)
	stderr, err := bank.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := bank.Start(); err != nil {
		t.Fatal(err)
	}
	var last string
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		last = lines.Text()
		if strings.Contains(last, "may still bring events") {
			if err := bank.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := bank.Wait(); err == nil || bank.ProcessState.ExitCode() != 130 {
		t.Errorf("%v, exit code %d", err, bank.ProcessState.ExitCode())
	}
	if !strings.Contains(last, "interrupted; what was committed stays") {
		t.Errorf("it ended with %q", last)
	}
}
