package replay

import (
	"context"
	"fmt"
	"strconv"
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
	Workers     int           // 0: 2
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
	db, elsewhere := j.events()
	if !elsewhere {
		return fn(tx)
	}
	return pg.InTx(ctx, session(db, stuck), pg.PointList, fn)
}

// Parallelism is how many transactions the job runs at once.
func (j *Job) Parallelism() int {
	if j.Workers > 0 {
		return j.Workers
	}
	return 2
}

// session is a database for transactions of work, which may be idle for so long; 0: without limit. A worker that
// hangs between two statements loses its connection and with it its claim; while it works, it is never idle for long. Plans are
// made for the values at hand: a range that is one of many and one that is the whole store want different ones. Compiling a plan
// never pays for ours. Rows that row security would hide from us are an error. A server that is busy with a
// statement looks now and then whether its client is still there, where it can: the claim of a worker that was killed ends
// then, and not with the statement. In a rebuild nothing waits for a lock of ours but workers of
// the same migration, which end by themselves; so there is no lock time-out.
func session(db *pgxpool.Pool, idle time.Duration) pg.Configured {
	return pg.Configured{DB: db, Settings: idleLimit(idle) + `,
		set_config('lock_timeout', '0', true),
		` + pg.Unbounded + `,
		set_config('plan_cache_mode', 'force_custom_plan', true),
		set_config('jit', 'off', true),
		set_config('row_security', 'off', true),
		case when version() like '%linux%' and current_setting('client_connection_check_interval', true) = '0'
			then set_config('client_connection_check_interval', '2s', true) end`}
}

// tries bounds how often a transaction is tried that another one made fail. Workers of one migration touch different
// rows, so even one failure is rare; the bound is there so that a permanent error is reported and not repeated for ever.
const tries = 5

// mostLost bounds how many sessions one transaction may lose.
const mostLost = 10

// stuck is how long a worker that says nothing to the server keeps its transaction.
const stuck = 5 * time.Minute

// idleLimit sets, in a select, how long the transaction may be idle; 0: without limit.
func idleLimit(limit time.Duration) string {
	return "set_config('idle_in_transaction_session_timeout', '" + strconv.FormatInt(limit.Milliseconds(), 10) + "', true)"
}

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
	case pg.IsConnectionLost(err):
		t.lost++
		if t.lost > mostLost || !j.reconnect(ctx) {
			return false
		}
	case pg.IsRetryable(err) || isRecorded(err):
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
	t := trouble{}
	for {
		err := run(ctx, session(j.DB, stuck), point, fn)
		if err == nil || !t.again(ctx, j, err) {
			return err
		}
	}
}

// patience is how long a server may be away, to restart after a crash or to fail over, before its absence is an error.
const patience = time.Minute

// reconnect waits until the server answers; false if it does not within patience.
func (j *Job) reconnect(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		if events, _ := j.events(); j.DB.Ping(ctx) == nil && events.Ping(ctx) == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}
