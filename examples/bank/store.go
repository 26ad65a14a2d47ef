package bank

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// EventTable creates the event store.
//
//go:embed events.sql
var EventTable string

// Release is the application's code for one version of the view schema.
type Release struct {
	Version     int
	Projections *projections.Set
}

// NewRelease makes the release that goes with a definition.
func NewRelease(d viewschema.Definition) (Release, error) {
	set, err := projections.NewSet(d.Events, d.Projectors...)
	if err != nil {
		return Release{}, err
	}
	return Release{Version: d.Versions.Target(), Projections: set.In(viewschema.DefaultSchema, "")}, nil
}

// Store appends events and projects them into the live view tables, in one transaction.
type Store struct {
	DB *pgxpool.Pool
	// Releases are the versions of the code that this process can run, lowest first. It begins with the first and goes on
	// to the next when the guard says that the view schema has moved on. A real application has one release per process,
	// and it is the deployment that moves on.
	Releases []Release
}

// Append stores the events. Their sequence numbers are the caller's; position and time are filled in. If the view schema
// moves on meanwhile, the transaction is done again with the next release: nobody sees an error.
func (s *Store) Append(ctx context.Context, events ...projections.New) error {
	for {
		err := pgx.BeginFunc(ctx, s.DB, func(tx pgx.Tx) error { return s.append(ctx, tx, events) })
		if !errors.Is(err, viewschema.ErrVersion) || len(s.Releases) < 2 {
			return err
		}
		s.Releases = s.Releases[1:]
	}
}

func (s *Store) append(ctx context.Context, tx pgx.Tx, events []projections.New) error {
	release := s.Releases[0]
	if err := release.Projections.TakeTurn(ctx, projections.Pgx(tx), events...); err != nil {
		return err
	}
	if err := viewschema.Guard(ctx, tx, viewschema.DefaultSchema, release.Version); err != nil {
		return err
	}
	for i := range events {
		e := &events[i]
		data, err := json.Marshal(e.Data)
		if err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			insert into events (aggregate_id, sequence_number, event_type, data)
			values ($1, $2, $3, $4)
			returning position, created_at`, e.AggregateID.UUID(), e.Sequence, e.Type, data).Scan(&e.Position, &e.Time)
		if err != nil {
			return fmt.Errorf("appending %s: %w", e.Type, err)
		}
	}
	return release.Projections.Project(ctx, projections.Pgx(tx), events...)
}
