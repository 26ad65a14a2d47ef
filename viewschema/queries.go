package viewschema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// A query is tried on so many aggregates, which have about so many events together.
const (
	triedAggregates = 12
	triedEvents     = 5_000
)

// checkQueries tries the plan's SQL tables before anything is made: that PostgreSQL understands their queries, and that each
// row derives from one aggregate. It changes nothing.
func (s *Schema) checkQueries(ctx context.Context, source *eventstore.Reader, plan *Plan) error {
	set := s.projections(plan, "")
	if len(set.SQLTables()) == 0 {
		return nil
	}
	tx, err := s.db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it has only read
	queries := replay.NewQueries(set, source)
	if err := queries.Describe(ctx, tx); err != nil {
		return fmt.Errorf("%w: %w", ErrDefinition, err)
	}
	aggregates, err := source.Sample(ctx, tx, triedAggregates, triedEvents)
	if err != nil {
		return err
	}
	ids := make([]projections.ID, len(aggregates))
	for i, a := range aggregates {
		ids[i] = a.ID
	}
	if err := queries.Try(ctx, tx, ids); err != nil {
		return fmt.Errorf("%w: %w", ErrDefinition, err)
	}
	return nil
}
