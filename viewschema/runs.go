package viewschema

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Run is the record of a command that brought the view schema forward, or back, or tried to. It outlives its migration.
type Run struct {
	ID      int64              `json:"id"`
	Command string             `json:"command"`
	From    int                `json:"from"`
	To      int                `json:"to"`
	Program string             `json:"program"` // and its version
	Host    string             `json:"host"`
	User    string             `json:"user"` // of the host
	Role    string             `json:"role"` // of the database
	PID     int                `json:"pid"`
	Started time.Time          `json:"started"`
	Seen    time.Time          `json:"seen"`  // when it last said that it was alive
	Ended   *time.Time         `json:"ended"` // null: it has not, or it died
	Outcome Outcome            `json:"outcome"`
	Error   string             `json:"error"`  // may quote payloads
	Failed  string             `json:"failed"` // Error without what it may quote
	Events  int64              `json:"events"` // that this run applied
	Rows    int64              `json:"rows"`
	HeldOff time.Duration      `json:"-"`       // how long a cutover held off writers
	Holding string             `json:"holding"` // why it holds back now; empty: it does not
	Phases  map[string]float64 `json:"phases"`  // of a rebuild, over all its runs: seconds by phase
}

// Outcome is what became of a run.
type Outcome string

// The outcomes. The first two have no end: a run that has not said for 15 seconds that it is alive has died, or cannot reach the
// database.
const (
	OutcomeWorking     Outcome = "working"
	OutcomeSilent      Outcome = "silent"
	OutcomeDone        Outcome = "done"
	OutcomeFailed      Outcome = "failed"
	OutcomeInterrupted Outcome = "interrupted"
)

// outcome is the Outcome of a row of projector_runs.
const outcome = "coalesce(outcome, case when seen_at > clock_timestamp() - interval '15 s' then 'working' else 'silent' end)"

// Runs returns the records of the last runs, the latest first; none if the bookkeeping is an older Projector's.
func (s *Schema) Runs(ctx context.Context, most int) ([]Run, error) {
	list, err := pg.Collect(ctx, s.db, pgx.RowToStructByPos[Run], s.sql(`
		select id, command, from_version, to_version, program, host, os_user, role, pid, started_at, seen_at, ended_at,
			`+outcome+`,
			error, failed, events, rows, coalesce(held_off, '0'), holding, phases
		from %SCHEMA%.projector_runs
		order by started_at desc, id desc
		limit $1`), most)
	switch {
	case pg.IsUndefined(err):
		return []Run{}, nil
	case err != nil:
		return nil, fmt.Errorf("reading the runs: %w", err)
	}
	return list, nil
}
