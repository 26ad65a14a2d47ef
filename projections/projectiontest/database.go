package projectiontest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pgcluster"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// databaseTables are the tables of a test in a database.
type databaseTables struct {
	db     *pgxpool.Pool
	schema *viewschema.Schema
	set    *projections.Set // on the live tables
	goSet  *projections.Set // without SQL tables, which are not projected live
	store  *TableEvents
}

// defaultEventTable fits the zero Mapping.
const defaultEventTable = `
create table events (
    position        bigint      generated always as identity primary key,
    aggregate_id    uuid        not null,
    sequence_number bigint      not null,
    event_type      text        not null,
    data            jsonb       not null,
    created_at      timestamptz not null default now(),
    unique (aggregate_id, sequence_number)
)`

func openDatabase(t testing.TB, d viewschema.Definition, set *projections.Set, o options) (*databaseTables, error) {
	t.Helper()
	if o.eventTable == "" {
		if d.Source != (eventstore.Mapping{}) && d.Source != (eventstore.Mapping{Relation: "events"}) {
			return nil, errors.New("the definition's Source maps a table that the test has to make: " +
				"add the option projectiontest.EventTable with its SQL")
		}
		o.eventTable = defaultEventTable
	}
	template, err := newTemplate(d, o.eventTable)
	if err != nil {
		return nil, err
	}
	cluster, err := pgcluster.Shared()
	if err != nil {
		return nil, err
	}
	name, err := cluster.CreateFrom(t.Context(), template)
	if err != nil {
		return nil, err
	}
	cluster.DropAfter(t, name)
	tables := &databaseTables{}
	if tables.db, err = cluster.Pool(t, name); err != nil {
		return nil, err
	}
	if tables.schema, err = viewschema.Open(tables.db, d, viewschema.Options{}); err != nil {
		return nil, err
	}
	tables.set = set.In(cmp.Or(d.Schema, viewschema.DefaultSchema), "")
	var projectors []*projections.Projector
	for _, p := range d.Projectors {
		if _, sql := p.Tables[0].(*projections.SQLTable); !sql {
			projectors = append(projectors, p)
		}
	}
	tables.goSet = tables.set.Only(projectors...)
	tables.store, err = NewTableEvents(t.Context(), tables.db, d.Source)
	return tables, err
}

// newTemplate is a database with the event table and empty view tables. A template of a definition that has a projector of
// the same name, in a schema of the same name and of the same module, is taken for one of the same definition.
func newTemplate(d viewschema.Definition, eventTable string) (pgcluster.Template, error) {
	content, err := d.Content()
	if err != nil {
		return pgcluster.Template{}, err
	}
	text, err := json.Marshal([]string{string(content), eventTable})
	if err != nil {
		return pgcluster.Template{}, err
	}
	module := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		module = info.Main.Path
	}
	template := pgcluster.Template{Content: text, Setup: func(ctx context.Context, url string) error {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return err
		}
		defer pool.Close()
		if _, err := pool.Exec(ctx, eventTable); err != nil {
			return fmt.Errorf("making the event table: %w", err)
		}
		schema, err := viewschema.Open(pool, d, viewschema.Options{})
		if err != nil {
			return err
		}
		_, err = schema.CreateTables(ctx)
		return err
	}}
	for _, p := range d.Projectors {
		template.Owners = append(template.Owners, fmt.Sprintf("%s, schema %s, projector %s", module, d.Schema, p.Name))
	}
	return template, nil
}

func (d *databaseTables) events() Events { return d.store }

func (d *databaseTables) pool() *pgxpool.Pool { return d.db }

func (d *databaseTables) project(ctx context.Context, events []projections.New, payloads [][]byte) error {
	return pgx.BeginFunc(ctx, d.db, func(tx pgx.Tx) error {
		if err := d.goSet.TakeTurn(ctx, projections.Pgx(tx), events...); err != nil {
			return err
		}
		appended, err := appendEncoded(ctx, d.store.In(tx), events, payloads)
		if err != nil {
			return err
		}
		return d.goSet.Project(ctx, projections.Pgx(tx), appended...)
	})
}

func (d *databaseTables) regenerate(ctx context.Context) error {
	_, err := d.schema.ReplayAll(ctx)
	return err
}

func (d *databaseTables) rows(ctx context.Context) (*projections.Memory, error) {
	memory := d.set.Memory()
	err := pgx.BeginFunc(ctx, d.db, func(tx pgx.Tx) error { return memory.Load(ctx, projections.Pgx(tx)) })
	return memory, err
}
