package eventtable_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

type deposited struct {
	Amount int64 `json:"amount"`
}

type balance struct {
	bun.BaseModel `bun:"table:balances"`
	ID            string `bun:"id,pk"`
	Deposits      int64  `bun:"deposits"`
	Amount        int64  `bun:"amount"`
}

// definition has one table, of what each account has received.
func definition() viewschema.Definition {
	balances := projections.NewRows(func(b *balance) string { return b.ID })
	deposits := &projections.Projector{
		Name: "balances", Revision: 1, Tables: []projections.Table{balances},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[deposited]) error {
				id := e.AggregateID.String()
				if e.Sequence == 0 {
					return balances.Create(s, balance{ID: id, Deposits: 1, Amount: e.Data.Amount})
				}
				return balances.Update(s, id, func(b *balance) {
					b.Deposits++
					b.Amount += e.Data.Amount
				})
			}),
		},
	}
	return viewschema.Definition{
		Source: eventstore.Mapping{
			Relation: "domainevententry", Position: "globalindex", AggregateID: "aggregateidentifier", Sequence: "sequencenumber",
			Type: "payloadtype", Data: "payload",
		},
		Events:     []projections.EventType{projections.JSON[deposited]("bank.Deposited")},
		Projectors: []*projections.Projector{deposits},
		Versions:   projector.Versions{1: {projector.Replay(deposits)}},
		Views: fstest.MapFS{"balances.sql": {Data: []byte(
			"create table balances%SUFFIX% (id text primary key, deposits bigint not null, amount bigint not null)")}},
	}
}

// The process is killed with SIGKILL after each of its statements, and in the filling, while the application writes; the same
// command goes on. Then the table is read by its positions, from the first event to the last, by a migration.
func TestProcessKilled(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, axon2)
	app := startApplication(t, db)
	kills := 0
	for _, fault := range []string{"before:prepare:1", "after:prepare:2", "before:fill:3", "after:fill:2"} {
		if run(t, db, fault) {
			t.Errorf("%s: it was not killed", fault)
		}
	}
	for !run(t, db, "after:prepare:1") {
		if kills++; kills > 50 || t.Failed() {
			t.Fatal("it does not come to an end")
		}
	}
	if kills < 8 {
		t.Errorf("killed %d times", kills)
	}
	app.await(t, 20)
	command(t, db, "", "migrate", "online")
	app.await(t, 20)
	command(t, db, "", "migrate", "catchup")
	app.end()
	command(t, db, "", "migrate", "offline")
	verify(t, db, app.written.Load())
	if n := value[int](t, db, `
		select count(*)
		from view_schema.balances b
		full join (
			select aggregateidentifier as id, count(*) as deposits, sum((convert_from(payload, 'UTF8')::json ->> 'amount')::bigint) as amount
			from domainevententry
			group by aggregateidentifier) e using (id)
		where (b.deposits, b.amount) is distinct from (e.deposits, e.amount)`); n != 0 {
		t.Errorf("%d balances are wrong", n)
	}
}

// run prepares the table, and says whether it came to its end.
func run(t *testing.T, db *pgxpool.Pool, fault string) bool {
	t.Helper()
	return command(t, db, fault, "events", "prepare", "--yes", "--batch-size", "500")
}

// command says whether the process came to its end and was not killed.
func command(t *testing.T, db *pgxpool.Pool, fault string, args ...string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], args...)
	c.Env = append(os.Environ(), asApplication+"=1", "PROJECTOR_FAULT="+fault, "DATABASE_URL="+db.Config().ConnString())
	out, err := c.CombinedOutput()
	status, _ := c.ProcessState.Sys().(syscall.WaitStatus)
	if err != nil && (!status.Signaled() || ctx.Err() != nil) {
		t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return err == nil
}
