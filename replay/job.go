package replay

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// Job is one migration's work: these projectors, from this event store, into their tables.
type Job struct {
	Ledger
	Version     int              // for messages
	Projections *projections.Set // with the schema and the suffix of the tables
	Source      *eventstore.Reader
	DB          *pgxpool.Pool // of the tables and the ledger
	Events      *pgxpool.Pool // of Source; nil: DB
	// Standby is a hot standby of DB, which has the events, too; nil: there is none. What is settled is read from it by batches, the lane
	// and catch-ups, and all else from DB. Then Projections has no SQL tables, which are not read but computed in DB.
	Standby *pgxpool.Pool
	Workers int // 0: 2
	// Merge puts the partial rows of an accumulating table together, and returns how many rows that made; nil if there is none.
	// It runs in the transaction that marks it as done.
	Merge     func(ctx context.Context, tx pgx.Tx, table string) (rows int64, err error)
	OnError   OnError // default Stop; what is parked already is left out in any case
	MaxParked int     // Park: of the migration; 0: 100
	// Index makes the indexes of a table after its rows are loaded; nil if no table has any. It runs in the transaction
	// that marks it as done.
	Index func(ctx context.Context, tx pgx.Tx, table string) error
	// Analyze is the same for the statistics of a table.
	Analyze func(ctx context.Context, tx pgx.Tx, table string) error
	// Throttle slows the rebuild and catch-ups down; may be nil. It holds nothing back that the cutover does.
	Throttle *Throttle
	Host     string // where it runs, for the bookkeeping; may be empty
	Log      zerolog.Logger
	// Progress is called now and then, at most every 100 ms, from one goroutine at a time, and once at the end; may be nil.
	Progress func(Progress)

	groupSize int64 // for tests; 0: groupSize
}

// Progress is how far the migration has come, over all processes that work on it.
type Progress struct {
	Phase                Phase
	Batches, BatchesDone int   // of the phase
	Events               int64 // about how many there are to replay
	EventsDone           int64 // replayed and, by this process, read
	Rows                 int64 // written
	Lane                 *Lane // nil: the migration has none
	OwnEvents, OwnRows   int64 // of this process: read, and stored
	Elapsed              time.Duration
	Times                Times // of this process
}

// Phase is a stage of a rebuild; each begins when the one before it is complete.
type Phase int

// The phases, as projector_batches stores them, and what comes after them. 3 was PhaseAnalyze before there was PhaseMerge: a
// process that is older takes no other batch for one of these.
const (
	PhaseReplay  Phase = 1
	PhaseMerge   Phase = 2
	PhaseIndex   Phase = 4
	PhaseAnalyze Phase = 5
	PhaseDone    Phase = 6
)

func (p Phase) String() string {
	switch p {
	case PhaseReplay:
		return "replay"
	case PhaseMerge:
		return "merge"
	case PhaseIndex:
		return "index"
	case PhaseAnalyze:
		return "analyze"
	case PhaseDone:
		return "done"
	}
	return fmt.Sprintf("phase %d", int(p))
}

// events is the database of the events, and says whether it is another one than that of the tables.
func (j *Job) events() (db *pgxpool.Pool, elsewhere bool) {
	if j.Events == nil || j.Events == j.DB {
		return j.DB, false
	}
	return j.Events, true
}

// eventsTx runs fn in a transaction in the database of the events: tx, which works on the tables, or else one that only
// reads.
func (j *Job) eventsTx(ctx context.Context, tx pgx.Tx, fn func(events pgx.Tx) error) error {
	if _, elsewhere := j.events(); !elsewhere {
		return fn(tx)
	}
	return j.reading(ctx, stuck, fn)
}

// reading runs fn in a transaction of its own in the database of the events, which may be idle for so long; 0: without limit. On a standby
// it is a snapshot of what was replayed there, and ErrNoStandby if there may be more in it since the standby was promoted.
func (j *Job) reading(ctx context.Context, idle time.Duration, fn func(tx pgx.Tx) error) error {
	db, _ := j.events()
	if !j.Source.OnStandby() {
		return pg.InTx(ctx, session(db, idle), pg.PointList, fn)
	}
	return pg.InSnapshot(ctx, session(db, idle), pg.PointList, func(tx pgx.Tx) error { // its settings take the snapshot
		var recovers bool
		if err := tx.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&recovers); err != nil {
			return fmt.Errorf("asking the standby whether it is one: %w", err)
		}
		if !recovers {
			return ErrNoStandby
		}
		return fn(tx)
	})
}

// Parallelism is how many transactions the job runs at once.
func (j *Job) Parallelism() int {
	if j.Workers > 0 {
		return j.Workers
	}
	return 2
}

// tries bounds how often a transaction is tried that another one made fail. Workers of one migration touch different
// rows, so even one failure is rare; the bound is there so that a permanent error is reported and not repeated for ever.
const tries = 5

// mostLost bounds how many sessions one transaction may lose.
const mostLost = 10

// trouble counts what went wrong since something went right.
type trouble struct{ failed, lost int }

// again says whether to try again after err, because a deadlock, a serialization failure or a lost connection is behind it;
// after the latter it waits for the server. Whether a commit that was under way has happened does not matter: what it would
// have done is read anew. A transaction that kills its session every time is not tried for ever, so as not to bring a
// server down.
func (t *trouble) again(ctx context.Context, j *Job, err error) bool {
	switch {
	case ctx.Err() != nil:
		return false
	case pg.IsConnectionLost(err) && !canceled(err):
		t.lost++
		if t.lost > mostLost {
			return false
		}
		j.Log.Warn().Err(err).Stringer("patience", Patience).Msg("the connection is lost; waiting for the server")
		if !j.reconnect(ctx) {
			if ctx.Err() == nil {
				j.Log.Error().Stringer("patience", Patience).Msg("there is still no server; giving up")
			}
			return false
		}
	case pg.IsRetryable(err) || isRecorded(err) || canceled(err):
		if t.failed++; t.failed == tries {
			return false
		}
	default:
		return false
	}
	j.Log.Warn().Err(err).Msg("trying the transaction again")
	return true
}

// Retry runs fn in a transaction, again after a deadlock, a serialization failure or a lost connection, and if another pass
// has recorded an event meanwhile.
func (j *Job) Retry(ctx context.Context, point pg.Point, fn func(tx pgx.Tx) error) error {
	return j.retry(ctx, pg.InTx, point, fn)
}

// transaction is pg.InTx or pg.InSnapshot.
type transaction func(ctx context.Context, db pg.Beginner, point pg.Point, fn func(tx pgx.Tx) error) error

// work is the transaction of a batch or a group: see doc.go.
func (j *Job) work() transaction {
	if j.Projections.Parallel().OnlySQL() {
		return pg.InSnapshot
	}
	return pg.InTx
}

func (j *Job) retry(ctx context.Context, run transaction, point pg.Point, fn func(tx pgx.Tx) error) error {
	return j.trying(ctx, func() error { return run(ctx, session(j.DB, stuck), point, fn) })
}

// trying calls fn until it returns no error, or one after which there is no point in calling it again.
func (j *Job) trying(ctx context.Context, fn func() error) error {
	t := trouble{}
	for {
		if err := fn(); err == nil || !t.again(ctx, j, err) {
			return err
		}
	}
}

// Patience is how long a server may be away, to restart after a crash or to fail over, before its absence is an error.
const Patience = time.Minute

// reconnect waits until the server answers; false if it does not within Patience.
func (j *Job) reconnect(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		events, _ := j.events()
		if j.DB.Ping(ctx) == nil && events.Ping(ctx) == nil && (j.Standby == nil || j.Standby.Ping(ctx) == nil) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}
