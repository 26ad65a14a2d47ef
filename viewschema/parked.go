package viewschema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// Parked is an aggregate that the tables of a version leave out, since one of its events could not be projected.
type Parked struct {
	Version int          `json:"version"`
	State   replay.State `json:"state"` // of the version's migration
	replay.Parked
}

// Parked lists the aggregates that are left out of the live version and of the one under way.
func (s *Schema) Parked(ctx context.Context) ([]Parked, error) {
	rows, err := s.db.Query(ctx, s.sql(`
		select m.to_version, m.state, p.aggregate_id, p.position, p.sequence, p.event_type, p.projector, p.error, p.parked_at
		from %SCHEMA%.projector_parked_events p
		join %SCHEMA%.projector_migrations m on m.id = p.migration_id
		where m.state <> 'archived'
		order by m.to_version, p.position, p.aggregate_id`))
	var list []Parked
	if err == nil {
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Parked, err error) {
			return p, row.Scan(&p.Version, &p.State, &p.Aggregate, &p.Position, &p.Sequence, &p.Type, &p.Projector, &p.Error, &p.At)
		})
	}
	switch {
	case pg.IsUndefined(err): // bookkeeping that is older than parking, or none
		return []Parked{}, nil
	case err != nil:
		return nil, fmt.Errorf("reading the parked aggregates: %w", err)
	}
	return list, nil
}

// Retried is what has come of a parked aggregate.
type Retried struct {
	Aggregate string `json:"aggregate_id"`
	Error     string `json:"error"` // why it stays parked; empty: its rows are in the new tables
}

// RetryParked replays parked aggregates of the migration under way whole and anew, each in a transaction of its own, or all of
// them if none is named. It goes on after one that fails again; those have an Error.
//
// The definition has to be the one that the migration began with: the event is what may have been mended. Other code would
// make rows for these aggregates that it has not made for the others. Errors: ErrState (nothing is built, or the version is live), ErrChanged,
// ErrBelowCurrent, and replay.ErrNotParked before anything is replayed.
func (s *Schema) RetryParked(ctx context.Context, aggregates ...string) ([]Retried, error) {
	if err := s.ensureInit(ctx, false); err != nil {
		return nil, err
	}
	parked, err := s.Parked(ctx)
	if err != nil {
		return nil, err
	}
	left, live := map[string]bool{}, 0
	var all []string
	for _, p := range parked {
		if p.State == replay.Active {
			live++
			continue
		}
		left[p.Aggregate] = true
		all = append(all, p.Aggregate)
	}
	if len(all) == 0 && live > 0 {
		return nil, fmt.Errorf("%w: the live version leaves out %s, and the application writes its tables; mend the events, and replay the projectors with a new version",
			ErrState, parkedAggregates(live))
	}
	if len(aggregates) == 0 {
		aggregates = all
	}
	m, plan, err := s.builtMigration(ctx)
	if err != nil {
		return nil, err
	}
	source, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	job := s.job(m, source, plan)
	ids := make([]string, len(aggregates))
	for i, a := range aggregates {
		id, err := job.Source.ParseID(a)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		ids[i] = id.String()
		if !left[ids[i]] {
			return nil, fmt.Errorf("%w: %s; see: events parked", replay.ErrNotParked, a)
		}
	}
	list := []Retried{}
	for _, id := range ids {
		err := job.RetryParked(ctx, id)
		switch {
		case err == nil || errors.Is(err, replay.ErrNotParked): // somebody else was faster
			list = append(list, Retried{Aggregate: id})
		case ctx.Err() != nil || errors.Is(err, ErrState) || pg.IsConnectionLost(err):
			return list, err
		default:
			list = append(list, Retried{id, err.Error()})
		}
	}
	return list, nil
}

// countParked counts the aggregates that a migration leaves out.
func (s *Schema) countParked(ctx context.Context, q pg.Querier, m replay.Ledger) (n int, err error) {
	err = q.QueryRow(ctx, s.sql("select count(*) from %SCHEMA%.projector_parked_events where migration_id = $1"), pg.Once, m.Migration).Scan(&n)
	if err != nil && !pg.IsUndefined(err) { // of bookkeeping that is older than parking
		return 0, fmt.Errorf("counting the parked aggregates: %w", err)
	}
	return n, nil
}

// parkedNow is countParked in a transaction of its own, which survives a lost connection.
func (s *Schema) parkedNow(ctx context.Context, job *replay.Job) (n int, err error) {
	err = job.Retry(ctx, pg.PointList, func(tx pgx.Tx) (err error) {
		n, err = s.countParked(ctx, tx, job.Ledger)
		return err
	})
	return n, err
}

// checkParked refuses a cutover that would leave aggregates out, unless Options.WithParked says that it may.
func (s *Schema) checkParked(ctx context.Context, q pg.Querier, m *migration) error {
	n, err := s.countParked(ctx, q, m.Ledger)
	if err != nil {
		return err
	}
	return s.refuseParked(m, n)
}

// refuseParked is checkParked for a number that is known.
func (s *Schema) refuseParked(m *migration, n int) error {
	if n == 0 || s.opts.WithParked {
		return nil
	}
	r := &refusal{}
	r.add("version %d leaves out %s; see: events parked; mend their events and type: events retry; or cut over without them: migrate offline --with-parked",
		m.to, parkedAggregates(n))
	return r
}

func parkedAggregates(n int) string {
	if n == 1 {
		return "1 parked aggregate"
	}
	return fmt.Sprintf("%d parked aggregates", n)
}

// keepParked has a version that is being cut over to leave out, too, what the live version leaves out of tables that stay live.
func (s *Schema) keepParked(ctx context.Context, tx pgx.Tx, m *migration) error {
	_, err := tx.Exec(ctx, s.sql(`
		insert into %SCHEMA%.projector_parked_events (migration_id, aggregate_id, position, sequence, event_type, projector, error, parked_at)
		select $1, p.aggregate_id, p.position, p.sequence, p.event_type, p.projector, p.error, p.parked_at
		from %SCHEMA%.projector_parked_events p
		join %SCHEMA%.projector_migrations l on l.id = p.migration_id and l.state = 'active'
		where exists (
			select
			from %SCHEMA%.projector_tables t
			join pg_catalog.pg_class c on c.relname = t.table_name and c.relnamespace = $2::text::regnamespace
			where t.change = 'replay'
			  and t.migration_id <= l.id
			  and not exists (
				select from %SCHEMA%.projector_tables n
				where n.migration_id = $1 and n.table_name = t.table_name and n.change in ('replay', 'drop')))
		on conflict do nothing`), m.Migration, pgx.Identifier{s.def.Schema}.Sanitize())
	if err != nil {
		return fmt.Errorf("keeping the parked aggregates: %w", err)
	}
	return nil
}

// forgetParked forgets the parked aggregates of the live version, all of whose tables have just been replayed from all events.
func (s *Schema) forgetParked(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, s.sql(`
		delete from %SCHEMA%.projector_parked_events
		where migration_id = (select id from %SCHEMA%.projector_migrations where state = 'active')`))
	if err != nil {
		return fmt.Errorf("forgetting the parked aggregates: %w", err)
	}
	return nil
}
