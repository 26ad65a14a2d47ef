package viewschema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// Result is what a step of a migration did.
type Result struct {
	From       int           `json:"from"`
	To         int           `json:"to"`
	State      replay.State  `json:"state"`                // of the migration, afterwards
	Nothing    bool          `json:"nothing"`              // there was nothing to do
	Projectors []string      `json:"projectors,omitempty"` // ReplayChanged: those that were replayed
	Resumed    bool          `json:"resumed"`              // another run, or another process, had begun
	Events     int64         `json:"events"`               // replayed, over all runs and processes
	Rows       int64         `json:"rows"`                 // written
	Cut        int64         `json:"cut"`                  // of the ledger
	CutReason  string        `json:"cut_reason"`           // why the first cut was 0
	Parked     int           `json:"parked"`               // aggregates that are left out, now
	Waiting    string        `json:"waiting"`              // catch-up: open transactions that kept the cut from moving
	HeldOff    time.Duration `json:"held_off"`             // cutover: how long writers were held off
	Remaining  []Remaining   `json:"remaining,omitempty"`  // cutover, ReplayChanged: what is left to do by hand
	Elapsed    time.Duration `json:"elapsed"`
	Times      replay.Times  `json:"times"` // where it went, of a rebuild in this process
}

// MigrateOnline makes the new tables beside the live ones and fills them from all events, while the application runs. It
// goes on where an earlier run stopped, and shares the work with other processes that run it at the same time. When it
// returns without an error, the migration is built.
//
// Errors: ErrBelowCurrent, ErrOtherMigration, ErrChanged, ErrState (being aborted), ErrDefinition (a SQL file that
// PostgreSQL refuses, a model that does not fit its table), ErrRefused (names that the plan needs are taken), or what went
// wrong with a batch: then the migration is resumable, and the live tables are untouched in any case.
func (s *Schema) MigrateOnline(ctx context.Context) (Result, error) {
	began := time.Now()
	current, err := s.CurrentVersion(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := s.checkDirection(current); err != nil || current == s.Target() {
		return Result{From: current, To: s.Target(), State: replay.Active, Nothing: true}, err
	}
	plan, err := s.def.reduce(current)
	if err != nil {
		return Result{}, err
	}
	source, err := s.source(ctx)
	if err != nil {
		return Result{}, err
	}
	m, err := s.mine(ctx, s.db)
	if err != nil {
		return Result{}, err
	}
	if m == nil || m.state == replay.Building {
		if err := s.checkTypes(ctx, source, plan); err != nil {
			return Result{}, err
		}
	}
	if err := s.ensureInit(ctx, true); err != nil {
		return Result{}, err
	}
	return s.record(ctx, commandOnline, current, plan.To, func(ctx context.Context, r *run) (Result, error) {
		result, err := r.build(ctx, m, plan, source)
		result.Elapsed = time.Since(began)
		return result, err
	})
}

// build begins the migration, if m is nil, and replays until it is built.
func (r *run) build(ctx context.Context, m *migration, plan *Plan, source *eventstore.Reader) (Result, error) {
	result := Result{From: plan.From, To: plan.To, State: replay.Built, Nothing: m != nil && m.state == replay.Built, Resumed: m != nil}
	if m == nil {
		if err := r.checkRoom(ctx, plan); err != nil {
			return Result{}, err
		}
		var err error
		if m, result.Resumed, err = r.begin(ctx, plan, source); err != nil {
			return Result{}, err
		}
		plan.unindexed = true
		if err := r.foresee(ctx, plan); err != nil {
			return Result{}, err
		}
	}
	if err := r.of(ctx, m); err != nil {
		return Result{}, err
	}
	job := r.watched(r.job(m, source, plan))
	if m.state == replay.Building {
		p, err := job.Run(ctx)
		if err != nil {
			return Result{}, r.advise(err, commandOnline)
		}
		result.Times = p.Times
		if err := r.built(ctx, job); err != nil {
			return Result{}, err
		}
		plan.unindexed = false
		if err := r.warnOfLacking(ctx, plan); err != nil {
			return Result{}, err
		}
	}
	return result, r.tell(ctx, job, &result)
}

// advise says what to type when an event cannot be projected in a command, or a query fails for what is in the events.
func (s *Schema) advise(err error, command string) error {
	const untouched = "the live tables are untouched: "
	_, ok := errors.AsType[*projections.EventError](err)
	switch {
	case errors.Is(err, replay.ErrMostParked):
		return err
	case pg.IsDiskFull(err):
		return fmt.Errorf("%w; %smake room for what the server has to write and type %s, which goes on; with --min-free-disk it stops before a disk is full",
			err, untouched, command)
	case errors.Is(err, projections.ErrTotals):
		return fmt.Errorf("%w; %smend the event and type %s, or type migrate abort and migrate online --on-error=park, which leaves its aggregate out from the beginning",
			err, untouched, command)
	case ok && errors.Is(err, replay.ErrInOrder):
		return fmt.Errorf("%w; %smend the event and type %s, or mend the code and type migrate abort and migrate online; no event can be left out of the order of the store",
			err, untouched, command)
	case ok:
		return fmt.Errorf("%w; %smend the event and type %s, mend the code and type migrate abort and migrate online, or leave its aggregate out with %s --on-error=park",
			err, untouched, command, command)
	}
	if _, ok := errors.AsType[*replay.QueryError](err); ok && !pg.IsRetryable(err) && !pg.IsConnectionLost(err) {
		return fmt.Errorf("%w\n%smend the event and type %s, or mend the query and type migrate abort and migrate online", err, untouched, command)
	}
	return err
}

func (s *Schema) checkDirection(current int) error {
	if s.Target() < current {
		return fmt.Errorf("%w: it is at version %d and the definition's target is %d; use the release that has version %d",
			ErrBelowCurrent, current, s.Target(), current)
	}
	return nil
}

// tell fills in what the bookkeeping knows about the migration.
func (s *Schema) tell(ctx context.Context, job *replay.Job, r *Result) error {
	return job.Retry(ctx, pg.PointList, func(tx pgx.Tx) error {
		p, err := job.Look(ctx, tx)
		if err != nil {
			return err
		}
		r.Events, r.Rows = p.EventsDone, p.Rows
		var state replay.State
		err = tx.QueryRow(ctx, s.sql(`
			select state, cut, cut_reason, (select count(*) from %SCHEMA%.projector_parked_events where migration_id = id)
			from %SCHEMA%.projector_migrations where id = $1`), pg.Once, job.Migration).
			Scan(&state, &r.Cut, &r.CutReason, &r.Parked)
		switch {
		case errors.Is(err, pgx.ErrNoRows), err == nil && state == replay.Aborting: // after our last batch
			return fmt.Errorf("%w: migration %d was aborted", ErrState, job.Migration)
		case err != nil:
			return fmt.Errorf("reading the cut of migration %d: %w", job.Migration, err)
		}
		return nil
	})
}

// begin starts the migration: it settles the first cut, outside any transaction; then, in one transaction, records the
// migration, makes the tables and writes the batches. A crash leaves all or nothing of it. If another process begins the
// same migration at that moment, ours joins it, and joined is true.
func (s *Schema) begin(ctx context.Context, plan *Plan, source *eventstore.Reader) (m *migration, joined bool, err error) {
	if err := s.checkNames(ctx, s.db, plan); err != nil {
		return nil, false, err
	}
	cut, parts, err := s.survey(ctx, plan, source)
	if err != nil {
		return nil, false, err
	}
	tables, err := source.Tables(ctx, s.events) // after the cut
	if err != nil {
		return nil, false, err
	}
	now, err := s.fingerprint(ctx, s.db)
	if err != nil {
		return nil, false, err
	}
	m = &migration{Ledger: replay.Ledger{Schema: s.def.Schema}, from: plan.From, to: plan.To, state: replay.Building, fingerprint: now}
	err = s.inTx(ctx, pg.PointBegin, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, s.sql(`
			insert into %SCHEMA%.projector_migrations (from_version, to_version, state, cut, cut_reason, event_tables, fingerprint)
			values ($1, $2, $3, $4, $5, $6, $7)
			returning id`), plan.From, plan.To, replay.Building, cut.Position, cut.Reason, tables, now).Scan(&m.Migration)
		if err != nil {
			return err
		}
		current, err := s.activeVersion(ctx, tx)
		if err != nil {
			return err
		}
		if current != plan.From {
			return fmt.Errorf("%w: version %d became current meanwhile; run the command again", ErrState, current)
		}
		if err := s.makeTables(ctx, tx, plan, m, source); err != nil {
			return err
		}
		return s.job(m, source, plan).Prepare(ctx, tx, parts, s.merged(plan), s.indexed(plan), names(plan.replayed()))
	})
	if _, constraint, ok := pg.UniqueViolation(err); ok && constraint == "projector_one_migration" {
		m, err = s.mine(ctx, s.db)
		if err == nil && m == nil {
			err = fmt.Errorf("%w: another process began a migration and ended it at once; run the command again", ErrState)
		}
		return m, true, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("beginning the migration to version %d: %w", plan.To, err)
	}
	log := s.opts.Log.Info().Int("version", plan.To).Int64("cut", cut.Position).Int("batches", len(parts))
	if cut.Reason != "" {
		log = log.Str("cut_reason", cut.Reason)
	}
	log.Msg("migration begun")
	return m, false, nil
}

// survey cuts the store into the ranges of the batches and settles the first cut, if there is anything to replay.
func (s *Schema) survey(ctx context.Context, plan *Plan, source *eventstore.Reader) (cut eventstore.Cut, parts []eventstore.Part, err error) {
	if len(plan.Projectors) == 0 {
		return cut, nil, nil
	}
	if err := s.checkQueries(ctx, source, plan); err != nil {
		return cut, nil, err
	}
	if err := checkLast(s.projections(plan, ""), source); err != nil {
		return cut, nil, err
	}
	if err := s.warnOfTypes(ctx, source, plan); err != nil {
		return cut, nil, err
	}
	parallel := s.projections(plan, "").Parallel()
	if len(parallel.Projectors()) > 0 {
		err = s.sampling(ctx, func(tx pgx.Tx) error {
			events, err := source.Estimate(ctx, tx)
			if err != nil {
				return err
			}
			layout, err := source.Layout(ctx, tx)
			if err != nil {
				return err
			}
			parts, err = source.Split(ctx, tx, replay.BatchSize(parallel, layout, events, s.opts.Workers))
			return err
		})
		if err != nil {
			return cut, nil, err
		}
	}
	// Last: a server that takes over before the cut is recorded may lack events below it, and give their positions out again.
	if cut, err = s.firstCut(ctx, source); err != nil {
		return cut, nil, err
	}
	return cut, parts, s.checkOrders(plan, source, cut.Reason)
}

// sampling runs fn in a transaction in the database of the events, whose statements may take as long as a large table needs. What it
// finds out may be a little old: it is asked of the standby, if there is one, and of the primary if that cancels it.
func (s *Schema) sampling(ctx context.Context, fn func(tx pgx.Tx) error) error {
	sample := func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select "+pg.Unbounded); err != nil {
			return err
		}
		return fn(tx)
	}
	if s.standby != nil {
		if err := pg.InTx(ctx, s.standby, pg.PointList, sample); !pg.IsRecoveryConflict(err) {
			return err
		}
	}
	return pg.InTx(ctx, s.events, pg.PointList, sample)
}

// firstCut waits for writers for as long as the options allow. Nobody is held off by it. A cut of 0 is never wrong: the
// ledger then has a row for every event that the rebuild reads.
func (s *Schema) firstCut(ctx context.Context, source *eventstore.Reader) (eventstore.Cut, error) {
	cut, err := source.Settle(ctx, s.events, eventstore.Wait{Limit: s.opts.CutTimeout, Blocked: func(about string) {
		s.opts.Log.Warn().Str("writers", about).Msg("waiting for transactions that may still bring events; to go on without them: --cut-timeout")
	}})
	switch {
	case errors.Is(err, eventstore.ErrUnsettled):
		return eventstore.Cut{Reason: err.Error()}, nil
	case errors.Is(err, eventstore.ErrMapping):
		return cut, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return cut, err
}

// projections returns the plan's projectors, bound to the tables with the suffix.
func (s *Schema) projections(plan *Plan, suffix string) *projections.Set {
	var ps []*projections.Projector
	for _, p := range s.def.Projectors {
		for _, name := range plan.Projectors {
			if p.Name == name {
				ps = append(ps, p)
			}
		}
	}
	return s.def.set.Only(ps...).In(s.def.Schema, suffix)
}

func names(tables []TableChange) []string {
	list := make([]string, len(tables))
	for i, t := range tables {
		list[i] = t.Table
	}
	return list
}

// indexedFirst returns the tables whose indexes are made while they are empty: rows are looked up in them, or added to, from the
// beginning.
func (s *Schema) indexedFirst(plan *Plan) []string {
	list := append(s.ordered(plan), s.merged(plan)...)
	slices.Sort(list)
	return slices.Compact(list)
}

// indexed returns the other tables that are replayed and have a file of indexes.
func (s *Schema) indexed(plan *Plan) []string {
	var list []string
	first := s.indexedFirst(plan)
	for _, t := range names(plan.replayed()) {
		if _, ok := s.def.files[t+".indexes.sql"]; ok && !slices.Contains(first, t) {
			list = append(list, t)
		}
	}
	return list
}

// existing lists which of these names relations of the view schema have.
func (s *Schema) existing(ctx context.Context, q pg.Querier, names ...string) ([]string, error) {
	list, err := pg.Collect(ctx, q, pgx.RowTo[string], `
		select name from pg_catalog.unnest($2::text[]) name where to_regclass(pg_catalog.format('%I.%I', $1::text, name)) is not null`,
		pg.Once, s.def.Schema, names)
	if err != nil {
		return nil, fmt.Errorf("looking for the tables %s: %w", strings.Join(names, ", "), err)
	}
	return list, nil
}

// exists says whether the view schema has a relation of that name.
func (s *Schema) exists(ctx context.Context, q pg.Querier, name string) (bool, error) {
	found, err := s.existing(ctx, q, name)
	return len(found) > 0, err
}

// built marks the migration as built, once all batches are done and the lane has come to the cut. Another process may have done so.
func (s *Schema) built(ctx context.Context, job *replay.Job) error {
	err := job.Retry(ctx, pg.PointBuilt, func(tx pgx.Tx) error {
		if err := boundLocks(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, s.sql(`
			update %SCHEMA%.projector_migrations m
			set state = 'built', built_at = now()
			where id = $1
			  and state = 'building'
			  and not exists (select from %SCHEMA%.projector_batches b where b.migration_id = m.id and b.done_at is null)
			  and not exists (select from %SCHEMA%.projector_lanes l where l.migration_id = m.id and l.position < m.cut)`), pg.Once, job.Migration)
		return err
	})
	if err != nil {
		return fmt.Errorf("marking migration %d as built: %w", job.Migration, err)
	}
	return nil
}
