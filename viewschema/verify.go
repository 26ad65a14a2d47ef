package viewschema

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/nearest"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// Verification is how the tables that a migration has built compare with the live ones.
type Verification struct {
	From       int               `json:"from"` // the version that is live
	To         int               `json:"to"`   // the version that is built
	Rollback   bool              `json:"rollback"`
	Tables     []TableComparison `json:"tables"`
	Parked     int               `json:"parked"`          // aggregates that the built tables leave out; their rows are only in the live ones
	LiveParked int               `json:"live_parked"`     // the same of the live tables
	Apart      string            `json:"apart,omitempty"` // why the tables were not seen at the same event; empty: they were
	Elapsed    time.Duration     `json:"-"`
}

// TableComparison is how a built table compares with the live one.
type TableComparison struct {
	Table            string             `json:"table"`
	New              bool               `json:"new"`              // there is no live one; nothing was compared
	Expected         bool               `json:"expected"`         // to differ, all of it; nothing was compared
	ExpectedColumns  []string           `json:"expected_columns"` // to differ; not compared
	Unseen           []string           `json:"unseen_columns"`   // that the database numbers; not compared
	Key              []string           `json:"key"`              // by which rows were compared; none: as a whole, as often as they occur
	BuiltRows        int64              `json:"built_rows"`
	LiveRows         int64              `json:"live_rows"`
	OnlyBuilt        int64              `json:"only_built"`         // rows whose key, or the like of which, the live table does not have
	OnlyLive         int64              `json:"only_live"`          // the same of the built table
	Differ           int64              `json:"differ"`             // rows that both have, with other values
	Columns          []ColumnDifference `json:"columns"`            // in which these differ
	OnlyBuiltColumns []string           `json:"only_built_columns"` // that the live table does not have, and nobody expects
	OnlyLiveColumns  []string           `json:"only_live_columns"`
	Unexplained      bool               `json:"unexplained"` // the tables differ, but not in a row that was found: by inherited rows, say
	Examples         []RowExample       `json:"examples"`
}

// ColumnDifference is a column that has other values in the two tables.
type ColumnDifference struct {
	Column string `json:"column"`
	Rows   int64  `json:"rows"`
}

// RowExample is a row that only one of the tables has, or that has other values in the other one. Values are by column, as
// PostgreSQL prints them; nil is null. Of a row that both have, there are the values that differ.
type RowExample struct {
	Key   map[string]*string `json:"key"`
	Built map[string]*string `json:"built"` // nil: there is no such row
	Live  map[string]*string `json:"live"`  // the same
}

// Same says whether nothing differs but what was expected to.
func (v *Verification) Same() bool {
	return !slices.ContainsFunc(v.Tables, func(t TableComparison) bool { return !t.Same() })
}

// Same says whether nothing differs but what was expected to.
func (t TableComparison) Same() bool {
	return t.OnlyBuilt+t.OnlyLive+t.Differ == 0 && !t.Unexplained && len(t.OnlyBuiltColumns)+len(t.OnlyLiveColumns) == 0
}

// Verify compares the tables that a migration has built with the live ones, by what PostgreSQL prints, so that a column with
// another type may have the same values. What should differ is declared with Options.Expect.
//
// It catches up first. Then, in one transaction, it applies what is still lacking, compares, and rolls back: both tables are seen
// with exactly the events that this snapshot has, since live projections commit with their events. The application reads and writes
// meanwhile. What works for a migration waits, or gives up as it does for other locks: catch-ups, the cutover, an abort. Status
// names whom they wait for. Vacuum keeps what dies. Where much differs, the server needs temporary disk space for up to all rows of both tables.
//
// With events in another database no snapshot has both; see Verification.Apart.
//
// A rollback under way is verified in the same way: the tables that it brings back are the built ones. Errors: ErrState (nothing is
// built), ErrRefused for a name in Options.Expect that there is not, before anything is touched, and those of CatchUp. An event that
// cannot be projected is an error; to leave its aggregate out is up to CatchUp.
func (s *Schema) Verify(ctx context.Context) (*Verification, error) {
	began := time.Now()
	m, plan, err := s.verifiable(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkExpected(ctx, plan); err != nil {
		return nil, err
	}
	if err := s.ensureInit(ctx, false); err != nil {
		return nil, err
	}
	v := &Verification{From: m.from, To: m.to, Rollback: m.rollback, Tables: []TableComparison{}}
	if s.elsewhere() {
		v.Apart = "the events are in another database, which has snapshots of its own: rows of events that came meanwhile can differ; " +
			"to rely on the result, verify while writers are paused"
	}
	if len(plan.Projectors) == 0 {
		return v, nil
	}
	source, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	job := s.job(m, source, plan)
	if _, err := job.CatchUp(ctx, eventstore.Wait{Limit: catchUpWait}); err != nil {
		return nil, s.advise(err, "migrate catchup")
	}
	job.OnError = replay.Stop
	if err := job.Rehearse(ctx, func(tx pgx.Tx) error { return s.compare(ctx, tx, m, plan, v) }); err != nil {
		return nil, fmt.Errorf("verifying version %d: %w", m.to, s.advise(err, "migrate catchup"))
	}
	v.Elapsed = time.Since(began)
	return v, nil
}

// verifiable is builtMigration, or the rollback that is under way.
func (s *Schema) verifiable(ctx context.Context) (*migration, *Plan, error) {
	m, err := s.mine(ctx, s.db)
	if err != nil || m == nil || !m.rollback {
		return s.builtMigration(ctx)
	}
	plan, err := s.planBack(ctx, m)
	return m, plan, err
}

// compare compares the plan's tables. The live ones are locked first, as readers lock them: a cutover that gives up tells who holds
// locks on them.
func (s *Schema) compare(ctx context.Context, tx pgx.Tx, m *migration, plan *Plan, v *Verification) error {
	v.Tables = v.Tables[:0] // of a transaction that was lost
	if err := boundLocks(ctx, tx); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "set local extra_float_digits = 3"); err != nil { // all digits, so that only same numbers print the same
		return err
	}
	pairs, err := s.pairs(ctx, tx, plan)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		if p.isNew() {
			continue
		}
		if _, err := tx.Exec(ctx, "lock table "+pg.Table(s.def.Schema, p.Table)+" in access share mode"); err != nil {
			return fmt.Errorf("locking table %s: %w", p.Table, err)
		}
	}
	err = tx.QueryRow(ctx, s.sql(`
		select count(*) filter (where m.id = $1), count(*) filter (where m.state = 'active')
		from %SCHEMA%.projector_parked_events p join %SCHEMA%.projector_migrations m on m.id = p.migration_id`), m.Migration).Scan(&v.Parked, &v.LiveParked)
	if err != nil {
		return fmt.Errorf("counting the parked aggregates: %w", err)
	}
	for _, p := range pairs {
		if !p.isNew() {
			s.opts.Log.Info().Str("table", p.Table).Msg("comparing")
		}
		t, err := s.comparePair(ctx, tx, p)
		if err != nil {
			return fmt.Errorf("comparing table %s: %w", p.Table, err)
		}
		v.Tables = append(v.Tables, t)
	}
	return nil
}

// verifying finds a verification that is under way, by the lock that no other work takes.
func (s *Schema) verifying(ctx context.Context) ([]Worker, error) {
	list, err := pg.Collect(ctx, s.db, scanWorker, `
		select 0, 'verify', coalesce(a.application_name, ''), a.pid, a.xact_start, 0
		from pg_catalog.pg_locks l
		join pg_catalog.pg_stat_activity a on a.pid = l.pid
		where l.locktype = 'relation'
		  and l.granted
		  and l.mode = $2
		  and l.relation = to_regclass($1)
		  and l.database = (select oid from pg_catalog.pg_database where datname = current_database())`,
		pg.Table(s.def.Schema, "projector_migrations"), pg.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("looking for a verification: %w", err)
	}
	return list, nil
}

// pair is a table that was built, and the live one.
type pair struct {
	TableChange
	built, live shape
}

// isNew says whether there is no live table.
func (p pair) isNew() bool { return len(p.live) == 0 }

func (s *Schema) pairs(ctx context.Context, q pg.Querier, plan *Plan) (list []pair, err error) {
	for _, change := range plan.replayed() {
		p := pair{TableChange: change}
		if p.built, err = s.shape(ctx, q, change.Built); err != nil {
			return nil, err
		}
		if p.live, err = s.shape(ctx, q, change.Table); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// checkExpected refuses names in Options.Expect that there are not.
func (s *Schema) checkExpected(ctx context.Context, plan *Plan) error {
	pairs, err := s.pairs(ctx, s.db, plan)
	if err != nil {
		return err
	}
	r := &refusal{}
	for _, e := range s.opts.Expect {
		table, column, ofColumn := strings.Cut(e, ".")
		i := slices.IndexFunc(pairs, func(p pair) bool { return p.Table == table })
		if i < 0 {
			r.add("--expect %s: version %d rebuilds no table %s%s", e, plan.To, table, nearest.DidYouMean("", table, slices.Values(names(plan.replayed()))))
			continue
		}
		columns := append(pairs[i].built.names(), pairs[i].live.names()...)
		if ofColumn && !slices.Contains(columns, column) {
			r.add("--expect %s: table %s has no column %q%s", e, table, column, nearest.DidYouMean(table+".", column, slices.Values(columns)))
		}
	}
	return r.orNil()
}

// expected returns the columns of a table that may differ, and whether all of it may.
func (s *Schema) expected(table string) (columns []string, all bool) {
	columns = []string{}
	for _, e := range s.opts.Expect {
		of, column, ofColumn := strings.Cut(e, ".")
		switch {
		case of != table:
		case !ofColumn:
			all = true
		case !slices.Contains(columns, column):
			columns = append(columns, column)
		}
	}
	return columns, all
}
