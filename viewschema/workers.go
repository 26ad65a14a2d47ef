package viewschema

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

// Worker is a session that has claimed a batch or the lane, or verifies what was built.
type Worker struct {
	Batch   int         `json:"batch"`    // 0: none
	Doing   string      `json:"doing"`    // batch 8, lane or verify
	Program string      `json:"program"`  // its application_name
	PID     int         `json:"pid"`      // on the server
	Since   *time.Time  `json:"since"`    // nil: our role may not see it
	Run     int64       `json:"run"`      // see Runs; 0: not known, like what follows
	Host    string      `json:"host"`     // of its process
	HostPID int         `json:"host_pid"` // of its process, on that host
	State   WorkerState `json:"state"`
	Seen    *time.Time  `json:"seen"` // lost: when its process last said that it was alive
}

// WorkerState says whether there is anybody behind a session.
type WorkerState string

// The states of a worker. One is lost if its process has ended, or has not said for 15 seconds that it is alive: it has died, it hangs, or
// its host is cut off. The server ends the session by itself, and then the batch is anybody's; see docs/scaling.md.
const (
	WorkerWorking WorkerState = "working"
	WorkerLost    WorkerState = "lost"
)

func (w Worker) String() string {
	text := w.Doing + ": " + w.who()
	if w.Since != nil {
		text += ", since " + w.Since.Format(time.TimeOnly)
	}
	if w.State == WorkerLost {
		text += "; lost"
		if w.Seen != nil {
			text += ", no sign of it since " + w.Seen.Format(time.TimeOnly)
		}
		text += fmt.Sprintf("; if it stays: select pg_terminate_backend(%d)", w.PID)
	}
	return text
}

func (w Worker) who() string {
	program := cmp.Or(w.Program, "no application name")
	if w.Host == "" {
		return fmt.Sprintf("%s, server pid %d", program, w.PID)
	}
	return fmt.Sprintf("%s on %s, pid %d, server pid %d", program, w.Host, w.HostPID, w.PID)
}

// session is how the bookkeeping of batches that are done names it.
func (w Worker) session() string {
	if w.Host == "" {
		return fmt.Sprintf("%s (pid %d)", w.Program, w.PID)
	}
	return fmt.Sprintf("%s on %s (pid %d)", w.Program, w.Host, w.PID)
}

func scanWorker(row pgx.CollectableRow) (Worker, error) {
	w := Worker{State: WorkerWorking}
	err := row.Scan(&w.Batch, &w.Doing, &w.Program, &w.PID, &w.Since, &w.Run)
	return w, err
}

// holders finds who works on the migration without taking a lock: a worker that has claimed a batch, or the lane, is the xmax of its
// row, and holds the lock of that transaction id, and that of its run. A verification, for which all others wait, is one of them.
func (s *Schema) holders(ctx context.Context, m *migration, lane bool) ([]Worker, error) {
	inLane := ""
	if lane {
		inLane = "union all select 0, xmax from %SCHEMA%.projector_lanes where migration_id = $1"
	}
	list, err := pg.Collect(ctx, s.db, scanWorker, s.sql(`
		with held as materialized (
			select locktype, pid, transactionid, classid::int8, objid::int8, objsubid
			from pg_catalog.pg_locks
			where granted and locktype in ('transactionid', 'advisory')
		)
		select w.number, case w.number when 0 then 'lane' else 'batch ' || w.number end, coalesce(a.application_name, ''), a.pid, a.xact_start,
			coalesce((select max(r.objid) from held r where r.pid = a.pid and r.locktype = 'advisory' and r.classid = $2 and r.objsubid = 2), 0)
		from (
			select number, xmax as holder from %SCHEMA%.projector_batches where migration_id = $1 and done_at is null
			`+inLane+`
		) w
		join held l on l.locktype = 'transactionid' and l.transactionid = w.holder
		join pg_catalog.pg_stat_activity a on a.pid = l.pid
		order by nullif(w.number, 0)`), m.Migration, replay.RunLock)
	if err != nil {
		return nil, fmt.Errorf("looking for workers: %w", err)
	}
	verifying, err := s.verifying(ctx)
	if err != nil {
		return nil, err
	}
	list = append(list, verifying...)
	return list, s.findRuns(ctx, list)
}

// findRuns tells whose the sessions are.
func (s *Schema) findRuns(ctx context.Context, list []Worker) error {
	ids := []int64{}
	for _, w := range list {
		if w.Run > 0 {
			ids = append(ids, w.Run)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := s.db.Query(ctx, s.sql("select id, host, pid, seen_at, "+outcome+" = 'working' from %SCHEMA%.projector_runs where id = any ($1)"), ids)
	if err == nil {
		var id int64
		var host string
		var pid int
		var seen time.Time
		var working bool
		_, err = pgx.ForEachRow(rows, []any{&id, &host, &pid, &seen, &working}, func() error {
			last := seen
			for i := range list {
				if w := &list[i]; w.Run == id {
					w.Host, w.HostPID = host, pid
					if !working {
						w.State, w.Seen = WorkerLost, &last
					}
				}
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("looking for the runs of workers: %w", err)
	}
	return nil
}
