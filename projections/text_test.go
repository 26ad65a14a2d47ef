package projections_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

type basket struct {
	bun.BaseModel `bun:"table:baskets"`
	ID            string `bun:"id,pk"`
	Total         int64  `bun:"total"`
}

var baskets = projections.NewRows(func(b *basket) string { return b.ID })

// Aggregates may have text for ids, and a column may hold it as text, varchar or a domain of these.
func TestTextAggregates(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `create domain a as varchar(20); create domain b as a check (value <> '');
			create table baskets (id b primary key, total bigint not null)`)
		return err
	})
	set, err := projections.NewSet(bankEvents, &projections.Projector{Name: "baskets", Tables: []projections.Table{baskets}, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, e projections.Event[deposited]) error {
			return baskets.Upsert(s, e.AggregateID.String(), func(b *basket, _ bool) {
				b.ID = e.AggregateID.String()
				b.Total += e.Data.Amount
			})
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	of := func(id string) *projections.Raw {
		return &projections.Raw{AggregateID: projections.Text(id), Type: []byte("MoneyDeposited"), Data: []byte(`{"amount":1}`)}
	}
	mustApply(t, pool, set.Rebuild(), 2, of("ünï"), of("ünï"), of("b"))
	mustApply(t, pool, set.CatchUp(), 2, of("b"), of(`c"{},`), of("b"))
	if got := text(t, pool, "select string_agg(id || '=' || total, ' ' order by id) from baskets"); got != `b=3 c"{},=1 ünï=2` {
		t.Error(got)
	}
}
