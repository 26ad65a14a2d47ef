package viewschema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// migration is a migration that is under way, with what is needed to tell whether its bookkeeping is sound.
type migration struct {
	replay.Ledger
	from, to    int
	state       replay.State
	fingerprint fingerprint
	rollback    bool     // its tables are archived ones
	current     int      // the database's version
	missing     []string // tables that are recorded as built and do not exist
	pending     int      // batches
}

// partialName is t.partial_name of projector_tables, which an older Projector's has not.
const partialName = "to_jsonb(t) ->> 'partial_name'"

// underWay returns the migration that is building, built or aborting; nil if there is none. It is one statement, and names
// are looked up in pg_class and not with to_regclass, which does not go by the statement's snapshot: a cutover that commits
// meanwhile is seen as a whole or not at all. Columns that bookkeeping of an older Projector does not have are asked for as JSON.
func (s *Schema) underWay(ctx context.Context, q pg.Querier) (*migration, error) {
	if have, err := s.bookkeepingVersion(ctx, q); err != nil || have == 0 {
		return nil, err
	}
	m := &migration{Ledger: replay.Ledger{Schema: s.def.Schema}}
	err := q.QueryRow(ctx, s.sql(`
		select m.id, m.from_version, m.to_version, m.state, m.fingerprint, to_jsonb(m) ->> 'takes_back' is not null,
			coalesce((select to_version from %SCHEMA%.projector_migrations where state = 'active'), 0),
			array(
				select made.name
				from %SCHEMA%.projector_tables t, unnest(array[t.built_name, `+partialName+`]) made (name)
				where t.migration_id = m.id
				  and made.name is not null
				  and not exists (
					select
					from pg_catalog.pg_class c
					join pg_catalog.pg_namespace n on n.oid = c.relnamespace
					where n.nspname = $1 and c.relname = made.name)
				order by made.name),
			(select count(*) from %SCHEMA%.projector_batches b where b.migration_id = m.id and b.done_at is null)
		from %SCHEMA%.projector_migrations m
		where m.state in ('building', 'built', 'aborting')`), pg.Once, s.def.Schema).
		Scan(&m.Migration, &m.from, &m.to, &m.state, &m.fingerprint, &m.rollback, &m.current, &m.missing, &m.pending)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case pg.IsUndefined(err):
		return nil, fmt.Errorf("%w: %w", ErrBookkeeping, err)
	case err != nil:
		return nil, fmt.Errorf("looking for a migration under way: %w", err)
	}
	return m, nil
}

// mine returns the migration under way if it is ours to go on with: to our target, from the current version, with the
// same definition. It returns nil if there is none.
func (s *Schema) mine(ctx context.Context, q pg.Querier) (*migration, error) {
	m, err := s.underWay(ctx, q)
	if err != nil || m == nil {
		return nil, err
	}
	switch {
	case m.state == replay.Aborting:
		return nil, fmt.Errorf("%w: the migration to version %d is being aborted; finish it with: migrate abort", ErrState, m.to)
	case m.to != s.Target():
		return nil, fmt.Errorf("%w: to version %d (%s), and this definition's target is %d; finish it, or type: migrate abort", ErrOtherMigration, m.to, m.state, s.Target())
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	now, err := s.fingerprint(ctx, q)
	if err != nil {
		return nil, err
	}
	if diff := m.fingerprint.diff(now); diff != "" {
		return nil, fmt.Errorf("%w: %s; go on with the binary that began it, or start over: migrate abort", ErrChanged, diff)
	}
	return m, nil
}

// check holds the bookkeeping of the migration against the database, in case somebody has edited one of them.
func (m *migration) check() error {
	switch {
	case m.current != m.from:
		return fmt.Errorf("%w: the migration to version %d began at version %d, and version %d is current; type: migrate abort", ErrBookkeeping, m.to, m.from, m.current)
	case len(m.missing) > 0:
		return fmt.Errorf("%w: of the tables that were built for version %d, %s is gone; type: migrate abort", ErrBookkeeping, m.to, strings.Join(m.missing, ", "))
	case m.state == replay.Built && m.pending > 0:
		return fmt.Errorf("%w: the migration to version %d is marked as built, but %d batches are not done; type: migrate abort", ErrBookkeeping, m.to, m.pending)
	}
	return nil
}

// job makes the work of a migration for package replay.
func (s *Schema) job(m *migration, source *eventstore.Reader, plan *Plan) *replay.Job {
	suffix := versionSuffix(m.to)
	totals := s.totals(plan)
	return &replay.Job{
		Ledger:      m.Ledger,
		Version:     m.to,
		Projections: s.projections(plan, suffix),
		Source:      source,
		DB:          s.db,
		Events:      s.events,
		Standby:     s.standby,
		Workers:     s.opts.Workers,
		Merge: func(ctx context.Context, tx pgx.Tx, table string) (int64, error) {
			return s.merge(ctx, tx, m, totals[table])
		},
		OnError:   s.opts.OnError,
		MaxParked: s.opts.MaxParked,
		Index: func(ctx context.Context, tx pgx.Tx, table string) error {
			return s.makeIndexes(ctx, tx, s.def.files[table+".indexes.sql"], []string{table}, suffix)
		},
		Analyze: func(ctx context.Context, tx pgx.Tx, table string) error {
			_, err := tx.Exec(ctx, "analyze "+pg.Table(s.def.Schema, table+suffix))
			return err
		},
		Log:      s.opts.Log,
		Progress: s.opts.Progress,
	}
}

// makeIndexes runs a table's file of indexes. made are the tables that tx may have made.
func (s *Schema) makeIndexes(ctx context.Context, tx pgx.Tx, f sqlFile, made []string, suffix string) error {
	if err := s.runFile(ctx, tx, f, suffix); err != nil {
		return err
	}
	return s.checkStrays(ctx, tx, f, made, suffix)
}
