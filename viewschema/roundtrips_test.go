package viewschema_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// roundTrips are the statements that pgx sends for a pool, and their preparations, each of which is a round trip. Files and COPY are not
// among them, nor is the sign of life of a run, which comes by the clock.
type roundTrips struct {
	mu   sync.Mutex
	list []string
}

func (r *roundTrips) add(ctx context.Context, what, sql string) context.Context {
	if !strings.Contains(sql, "set seen_at") && !strings.Contains(sql, ".projector_throttles") {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.list = append(r.list, what+strings.Join(strings.Fields(sql), " "))
	}
	return ctx
}

func (r *roundTrips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return r.add(ctx, "", d.SQL)
}

func (r *roundTrips) TracePrepareStart(ctx context.Context, _ *pgx.Conn, d pgx.TracePrepareStartData) context.Context {
	return r.add(ctx, "prepare: ", d.SQL)
}

func (r *roundTrips) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	return r.add(ctx, "batch: ", d.Batch.QueuedQueries[0].SQL)
}

func (*roundTrips) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (*roundTrips) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (*roundTrips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData)     {}
func (*roundTrips) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}

// A rebuild with the view tables behind a network waits for each round trip to them.
func TestRoundTripsOfARebuild(t *testing.T) {
	t.Parallel()
	const most = 145 // usually it is some 120: which worker gets what makes a difference
	config, trips := pgtest.Database(t, nil).Config(), &roundTrips{}
	config.ConnConfig.Tracer = trips
	views, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer views.Close()
	s, err := viewschema.Open(views, bank.WithoutTransfers(), viewschema.Options{Events: pgtest.Database(t, fewEvents)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	trips.list = nil
	online(t, s)
	if n := len(trips.list); n > most {
		t.Errorf("%d round trips, and %d are allowed:\n%s", n, most, strings.Join(trips.list, "\n"))
	}
}

// fewEvents go into one batch.
func fewEvents(ctx context.Context, conn *pgx.Conn) error {
	if err := emptyStore(ctx, conn); err != nil {
		return err
	}
	return bank.Fill(ctx, conn, 1_000, 1)
}
