package viewschema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// Status is where the view schema stands.
type Status struct {
	Schema    string           `json:"schema"`
	Current   int              `json:"current"`
	Target    int              `json:"target"`
	Migration *MigrationStatus `json:"migration"` // nil: none is under way
	Tables    []TableStatus    `json:"tables"`
	AtWork    []RunStatus      `json:"at_work"` // commands that say that they are alive
	Standby   *StandbyStatus   `json:"standby"` // that this command would read events from; nil: there is none
	Parked    []Parked         `json:"parked"`  // aggregates that the live version leaves out, and the one under way
	// The target was live until a rollback, and its tables are archived: Rollback goes live with it again.
	RolledBack bool `json:"rolled_back"`

	runs []RunStatus // see Overview
}

// MigrationStatus is how far a migration is.
type MigrationStatus struct {
	From        int          `json:"from"`
	To          int          `json:"to"`
	State       replay.State `json:"state"`
	Phase       string       `json:"phase"`
	Batches     int          `json:"batches"` // of the phase
	BatchesDone int          `json:"batches_done"`
	Events      int64        `json:"events"` // about how many there are
	EventsDone  int64        `json:"events_done"`
	Rows        int64        `json:"rows"`
	PerSecond   float64      `json:"events_per_second"` // replayed lately; 0: nobody is at work, or it is not known
	Left        *float64     `json:"left_seconds"`      // of the replay, at this rate; nil: not known
	Cut         int64        `json:"cut"`
	CutReason   string       `json:"cut_reason"` // why the first cut was 0
	Ledger      int64        `json:"ledger"`     // replayed ids above the cut
	Tail        int64        `json:"tail"`       // events that the new tables lack; only when built
	Lane        *replay.Lane `json:"lane"`       // nil: no projector is replayed in the order of the store
	Workers     []Worker     `json:"workers"`    // that are at work on it
	Throttle    *Throttle    `json:"throttle"`   // what the work keeps to; null: to nothing
	Rollback    bool         `json:"rollback"`   // to the version before, whose tables are the archived ones
	Changed     string       `json:"changed"`    // how this definition differs from the one that began; empty: it does not
	Created     time.Time    `json:"created"`

	chart Chart
}

// TableStatus is a table that migrations have made.
type TableStatus struct {
	Table      string `json:"table"`
	Role       string `json:"role"`       // live, built, partial or archived
	Partitions int    `json:"partitions"` // that hold its rows; 0: it is not partitioned
	Bytes      int64  `json:"bytes"`      // with indexes and partitions
}

// Status reads where the view schema stands. It takes no lock that anybody waits for.
func (s *Schema) Status(ctx context.Context) (Status, error) {
	st, _, err := s.status(ctx)
	return st, err
}

// status is Status with the migration under way; nil: there is none. The current version is that of the statement which finds the
// migration, or a later one's: a cutover is seen as a whole, or not at all.
func (s *Schema) status(ctx context.Context) (Status, *migration, error) {
	st := Status{Schema: s.def.Schema, Target: s.Target(), Tables: []TableStatus{}, AtWork: []RunStatus{}, Parked: []Parked{}}
	m, err := s.underWay(ctx, s.db)
	if err != nil {
		return Status{}, nil, err
	}
	if m != nil {
		st.Current = m.current
	} else if st.Current, err = s.CurrentVersion(ctx); err != nil {
		return Status{}, nil, err
	}
	if have, err := s.bookkeepingVersion(ctx, s.db); err != nil || have == 0 {
		return st, nil, err
	}
	if st.Tables, err = s.tableStatus(ctx); err != nil {
		return Status{}, nil, err
	}
	if st.Parked, err = s.Parked(ctx); err != nil {
		return Status{}, nil, err
	}
	if st.runs, err = s.lastRuns(ctx); err != nil {
		return Status{}, nil, err
	}
	for _, r := range st.runs {
		if r.Outcome == OutcomeWorking {
			st.AtWork = append(st.AtWork, r)
		}
	}
	if st.Standby, err = s.standbyStatus(ctx); err != nil {
		return Status{}, nil, err
	}
	if m == nil {
		st.RolledBack, err = s.rolledBack(ctx, st.Current)
		return st, nil, err
	}
	if st.Migration, err = s.migrationStatus(ctx, m); err == nil {
		return st, m, nil
	}
	if now, lookErr := s.underWay(ctx, s.db); lookErr == nil && (now == nil || now.Migration != m.Migration) {
		return s.status(ctx) // it was aborted meanwhile
	}
	return Status{}, nil, err
}

func (s *Schema) rolledBack(ctx context.Context, current int) (bool, error) {
	if current == 0 || current >= s.Target() {
		return false, nil
	}
	last, err := s.lastMigration(ctx)
	if errors.Is(err, ErrRefused) { // it is not the target's
		return false, nil
	}
	if err != nil {
		return false, err
	}
	archived := func(t formerTable) bool { return t.archived != "" }
	gone := func(t formerTable) bool { return t.gone }
	return slices.ContainsFunc(last.tables, archived) && !slices.ContainsFunc(last.tables, gone), nil
}

func (s *Schema) tableStatus(ctx context.Context) ([]TableStatus, error) {
	list, err := pg.Collect(ctx, s.db, pgx.RowToStructByPos[TableStatus], s.sql(`
		with named as (
			select t.table_name as name, 'live' as role
			from %SCHEMA%.projector_tables t join %SCHEMA%.projector_migrations m on m.id = t.migration_id
			where m.state in ('active', 'archived') and t.change = 'replay'
			union
			select t.built_name, 'built'
			from %SCHEMA%.projector_tables t join %SCHEMA%.projector_migrations m on m.id = t.migration_id
			where m.state in ('building', 'built', 'aborting')
			union
			select `+partialName+`, 'partial'
			from %SCHEMA%.projector_tables t
			union
			select t.archived_name, 'archived'
			from %SCHEMA%.projector_tables t
			where not exists (
				select
				from %SCHEMA%.projector_tables b join %SCHEMA%.projector_migrations m on m.id = b.migration_id
				where b.built_name = t.archived_name and m.state in ('building', 'built', 'aborting'))
		)
		select n.name, n.role,
			(select count(*) from (`+pg.Partitions("c.oid")+`) tree join pg_catalog.pg_class p on p.oid = id where p.relkind <> 'p' and p.oid <> c.oid),
			`+pg.TableSize("c.oid")+`
		from named n
		join pg_catalog.pg_class c on c.relname = n.name and c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $1)
		order by n.name`), s.def.Schema)
	if err != nil {
		return nil, fmt.Errorf("reading the tables: %w", err)
	}
	return list, nil
}

func (s *Schema) migrationStatus(ctx context.Context, m *migration) (*MigrationStatus, error) {
	p, err := m.Look(ctx, s.db)
	if err != nil {
		return nil, err
	}
	st := &MigrationStatus{
		From: m.from, To: m.to, State: m.state, Phase: p.Phase.String(), Batches: p.Batches, BatchesDone: p.BatchesDone,
		Events: p.Events, EventsDone: p.EventsDone, Rows: p.Rows, Lane: p.Lane, Rollback: m.rollback,
	}
	err = s.db.QueryRow(ctx, s.sql(`
		select m.cut, m.cut_reason, m.created_at,
			(select count(*) from %SCHEMA%.projector_replayed_ids r where r.migration_id = m.id)
		from %SCHEMA%.projector_migrations m
		where m.id = $1`), m.Migration).Scan(&st.Cut, &st.CutReason, &st.Created, &st.Ledger)
	if err != nil {
		return nil, fmt.Errorf("reading migration %d: %w", m.Migration, err)
	}
	if st.Workers, err = s.holders(ctx, m, st.Lane != nil); err != nil {
		return nil, err
	}
	if st.Throttle, err = s.readThrottle(ctx, s.db, m.Migration, ""); err != nil {
		return nil, err
	}
	if err := s.rate(ctx, m, st); err != nil {
		return nil, err
	}
	now, err := s.fingerprint(ctx, s.db)
	if err != nil {
		return nil, err
	}
	if m.to == s.Target() {
		st.Changed = m.fingerprint.diff(now)
	}
	if m.state == replay.Built {
		source, err := s.source(ctx)
		if err != nil {
			return nil, err
		}
		job := &replay.Job{Ledger: m.Ledger, Source: source, DB: s.db, Events: s.events}
		if st.Tail, err = job.Tail(ctx, s.db); err != nil {
			return nil, err
		}
	}
	return st, nil
}
