package replay

import (
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/internal/pg"
)

// session is a database for transactions of work, which may be idle for so long; 0: without limit. Their settings come with their
// beginning, in one round trip, and have them end soon after their worker is gone, however that happens; docs/scaling.md has the times.
// On a Unix socket the TCP settings do nothing, and elsewhere than on Linux a server would complain of some. What was set of the TCP
// settings to a shorter time stays.
//
//   - A worker that hangs between two statements loses its connection and with it its claim. While it works, it is never idle for long.
//   - A host that is cut off says nothing any more. A server that waits for it, for the next statement or the rest of a COPY, asks with
//     TCP keepalives. While something that it has sent is not acknowledged, there are none: see claiming.
//   - A server that is busy with a statement looks now and then whether its client is still there, where it can: it sees a
//     connection that was closed, or that the keepalives have given up.
//
// Plans are made for the values at hand: a range that is one of many and one that is the whole store want different ones. Compiling a
// plan never pays for ours. Rows that row security would hide from us are an error. In a rebuild nothing waits for a lock of
// ours but workers of the same migration, which end by themselves; so there is no lock time-out.
func session(db *pgxpool.Pool, idle time.Duration) pg.Configured {
	return pg.Configured{DB: db, Settings: idleLimit(idle) + `,
		set_config('lock_timeout', '0', true),
		` + pg.Unbounded + `,
		set_config('plan_cache_mode', 'force_custom_plan', true),
		set_config('jit', 'off', true),
		set_config('row_security', 'off', true),
		case when version() like '%linux%' and current_setting('client_connection_check_interval', true) = '0'
			then set_config('client_connection_check_interval', '2s', true) end,
		(select count(set_config(name, least(nullif(current_setting(name)::int, 0), most)::text, true))
			from (values ('tcp_keepalives_idle', 10), ('tcp_keepalives_interval', 5), ('tcp_keepalives_count', 4)) as s (name, most)
			where version() like '%linux%')`}
}

// claiming is the part of a select list with which a transaction begins to hold what others wait for; $2 is RunLock and $3 the run.
//
// The server gives up a client that does not acknowledge what it was sent. A client that takes nothing is the same to it, as one that only
// reads does for as long as others store batches, or a throttle holds it back: settings leave that out, and nobody waits for such a one.
const claiming = `
	(select set_config('tcp_user_timeout', least(nullif(current_setting('tcp_user_timeout')::int, 0), 30000)::text, true) where version() like '%linux%'),
	(select pg_try_advisory_xact_lock_shared($2, run) from (select $3::int as run) r where run > 0)`

// RunLock is the first key of an advisory lock that each transaction with a claim shares; the second is the run's id. Nobody waits for it:
// it is there to be read in pg_locks, and tells status whose session it is.
const RunLock = 0x776f726b // "work"

// stuck is how long a worker that says nothing to the server keeps its transaction, although its host answers.
const stuck = 5 * time.Minute

// rests is how long a reader may rest: while batches are stored, and a throttle holds it back. If that takes longer, its pass begins anew
// where it was. A process that is stopped would keep vacuum from cleaning up for ever.
const rests = time.Hour

// idleLimit sets, in a select, how long the transaction may be idle; 0: without limit.
func idleLimit(limit time.Duration) string {
	return "set_config('idle_in_transaction_session_timeout', '" + strconv.FormatInt(limit.Milliseconds(), 10) + "', true)"
}

// thisSession is the session's name in the bookkeeping, in SQL; $5 is the host of the worker.
const thisSession = `pg_catalog.format('%s (pid %s)', pg_catalog.concat_ws(' on ', nullif(current_setting('application_name'), ''), nullif($5::text, '')), pg_backend_pid())`
