package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// State is where a migration stands.
type State string

// The states of a migration, in the order of its life.
const (
	Building State = "building" // tables exist, batches are being replayed
	Built    State = "built"    // all batches are done; catch-ups and the cutover may run
	Aborting State = "aborting" // no new work may begin
	Active   State = "active"   // cut over: the current version
	Archived State = "archived" // a former version
)

// Ledger is the bookkeeping of one migration.
type Ledger struct {
	Schema    string // of the bookkeeping tables
	Migration int64  // id in projector_migrations
	Run       int64  // id in projector_runs of the command that works, for RunLock; 0: none
}

func (l Ledger) sql(text string) string {
	return strings.ReplaceAll(text, "%SCHEMA%", pgx.Identifier{l.Schema}.Sanitize())
}

// enter begins a transaction of work: it takes the migration's row FOR KEY SHARE, so that neither its state nor its cut
// changes until the transaction ends, and returns the cut.
func (l Ledger) enter(ctx context.Context, tx pgx.Tx, want ...State) (cut int64, err error) {
	return l.lock(ctx, tx, "for key share", want...)
}

// Own takes the migration's row FOR UPDATE: it waits for the work under way, and keeps other work from beginning until tx
// ends. It returns ErrState unless the migration is in one of the wanted states.
func (l Ledger) Own(ctx context.Context, tx pgx.Tx, want ...State) (cut int64, err error) {
	return l.lock(ctx, tx, "for update", want...)
}

func (l Ledger) lock(ctx context.Context, tx pgx.Tx, mode string, want ...State) (cut int64, err error) {
	return l.locked(tx.QueryRow(ctx, l.lockQuery(mode), pg.Once, l.Migration, RunLock, l.Run), want...)
}

// lockQuery begins to hold what others wait for; see claiming.
func (l Ledger) lockQuery(mode string) string {
	return l.sql("select state, cut, "+claiming+" from %SCHEMA%.projector_migrations where id = $1 ") + mode
}

// locked reads the row of lockQuery.
func (l Ledger) locked(row pgx.Row, want ...State) (cut int64, err error) {
	var state State
	err = row.Scan(&state, &cut, nil, nil)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, l.gone()
	case err != nil:
		return 0, fmt.Errorf("locking migration %d: %w", l.Migration, err)
	case !slices.Contains(want, state):
		return 0, fmt.Errorf("%w: migration %d is %s and would have to be %s", ErrState, l.Migration, state, want[0])
	}
	return cut, nil
}

// cut reads the cut, which may move at any time.
func (l Ledger) cut(ctx context.Context, q pg.Querier) (cut int64, err error) {
	err = q.QueryRow(ctx, l.sql("select cut from %SCHEMA%.projector_migrations where id = $1"), pg.Once, l.Migration).Scan(&cut)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, l.gone()
	case err != nil:
		return 0, fmt.Errorf("reading the cut of migration %d: %w", l.Migration, err)
	}
	return cut, nil
}

func (l Ledger) gone() error {
	return fmt.Errorf("%w: migration %d is gone; it was aborted", ErrState, l.Migration)
}

// replayed is the relation of the events above the cut that the tables hold, for eventstore.Selection.Except.
func (l Ledger) replayed() string {
	return l.sql("(select position, aggregate_id from %SCHEMA%.projector_replayed_ids where migration_id = ") + strconv.FormatInt(l.Migration, 10) + ")"
}

// known lists the events above the cut that the tables hold.
func (l Ledger) known(ctx context.Context, q pg.Querier) (known eventstore.Known, err error) {
	err = q.QueryRow(ctx, l.sql(`
		select coalesce(array_agg(position order by position, aggregate_id), '{}'), coalesce(array_agg(aggregate_id order by position, aggregate_id), '{}')
		from %SCHEMA%.projector_replayed_ids where migration_id = $1`), l.Migration).Scan(&known.Positions, &known.Aggregates)
	if err != nil {
		return known, fmt.Errorf("reading the ledger: %w", err)
	}
	return known, nil
}

// recorded counts the events up to a cut that are in the ledger.
func (l Ledger) recorded(ctx context.Context, q pg.Querier, cut int64) (n int64, err error) {
	err = q.QueryRow(ctx, l.sql("select count(*) from %SCHEMA%.projector_replayed_ids where migration_id = $1 and position <= $2"), pg.Once, l.Migration, cut).
		Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("reading the ledger: %w", err)
	}
	return n, nil
}

// highest is the highest position that the tables hold, at least the cut.
func (l Ledger) highest(ctx context.Context, q pg.Querier, cut int64) (highest int64, err error) {
	err = q.QueryRow(ctx, l.sql("select greatest(max(position), $2) from %SCHEMA%.projector_replayed_ids where migration_id = $1"), l.Migration, cut).
		Scan(&highest)
	if err != nil {
		return 0, fmt.Errorf("reading the ledger: %w", err)
	}
	return highest, nil
}

// entries are events as the ledger keys them.
type entries struct {
	shared     bool // see eventstore.Reader.SharedPositions
	again      bool // some may be recorded, by nobody who could still be at it
	positions  []int64
	aggregates []string // none unless positions are shared
}

// entries makes room for so many.
func (j *Job) entries(most int) *entries {
	return &entries{shared: j.Source.SharedPositions(), positions: make([]int64, 0, most)}
}

func (n *entries) add(e *projections.Raw) {
	n.positions = append(n.positions, e.Position)
	if n.shared {
		n.aggregates = append(n.aggregates, e.AggregateID.String())
	}
}

// record stores events above the cut. If another transaction has recorded one of them, it fails with a unique violation,
// after waiting for that transaction if it is still open: see isRecorded.
func (l Ledger) record(ctx context.Context, tx pgx.Tx, n *entries) error {
	if len(n.positions) == 0 {
		return nil
	}
	several := ""
	if n.shared { // events of one transaction and aggregate
		several = "distinct"
	}
	conflict := ""
	if n.again {
		conflict = "on conflict do nothing"
	}
	_, err := tx.Exec(ctx, l.sql(`
		insert into %SCHEMA%.projector_replayed_ids (migration_id, position, aggregate_id)
		select `+several+` $1::bigint, position, coalesce(aggregate_id, '')
		from rows from (pg_catalog.unnest($2::bigint[]), pg_catalog.unnest($3::text[])) as u (position, aggregate_id)
		order by 2, 3 `+conflict), l.Migration, n.positions, n.aggregates)
	if err != nil {
		return fmt.Errorf("recording %d events as replayed: %w", len(n.positions), err)
	}
	return nil
}

// isRecorded says whether err is record's: another pass was faster.
func isRecorded(err error) bool {
	table, _, ok := pg.UniqueViolation(err)
	return ok && table == "projector_replayed_ids"
}

// advance moves the cut, if it is higher than the old one, and forgets the positions up to it. It returns how many these are. tables held
// the events when it was settled.
func (l Ledger) advance(ctx context.Context, tx pgx.Tx, cut int64, tables []uint32) (forgotten int64, err error) {
	_, err = tx.Exec(ctx, l.sql("update %SCHEMA%.projector_migrations set cut = $2, event_tables = $3 where id = $1 and cut < $2"), l.Migration, cut, tables)
	if err != nil {
		return 0, fmt.Errorf("moving the cut to %d: %w", cut, err)
	}
	tag, err := tx.Exec(ctx, l.sql("delete from %SCHEMA%.projector_replayed_ids where migration_id = $1 and position <= $2"), l.Migration, cut)
	if err != nil {
		return 0, fmt.Errorf("forgetting the positions up to %d: %w", cut, err)
	}
	return tag.RowsAffected(), nil
}
