package dashboard

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// metric is a gauge. All have a label schema.
type metric struct {
	name   string
	help   string
	values func(o *viewschema.Overview) []value
}

// value is one of a metric's; labels are names and values in turn.
type value struct {
	number float64
	labels []string
}

// metrics are all that there are. What is not known, or does not exist at the time, has no value.
var metrics = []metric{
	{"projector_version", "Version that the database is at; 0: none yet.", func(o *viewschema.Overview) []value {
		return one(float64(o.Current))
	}},
	{"projector_target_version", "Version of the definition that this process has.", func(o *viewschema.Overview) []value {
		return one(float64(o.Target))
	}},
	{"projector_migration_state", "1 for the state of the migration under way, 0 for the other states; 0 for all if there is none.", states},
	{"projector_migration_version", "Version that the migration under way leads to.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		return float64(m.To)
	})},
	{"projector_migration_begun_timestamp_seconds", "When the migration under way began.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		return float64(m.Created.UnixMilli()) / 1000
	})},
	{"projector_batches", "Batches of the migration under way, by phase and state.", batches},
	{"projector_events", "Events that the rebuild has to replay, about.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		return float64(m.Events)
	})},
	{"projector_done_events", "Events of batches that are done.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		return float64(m.EventsDone)
	})},
	{"projector_rows", "Rows that were written to the new tables.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		return float64(m.Rows)
	})},
	{"projector_events_per_second", "Events replayed per second, lately, by all processes.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		return m.PerSecond
	})},
	{"projector_left_seconds", "Time left of the replay, if it goes on like this.", func(o *viewschema.Overview) []value {
		if o.Migration == nil {
			return nil
		}
		return known(o.Migration.Left)
	}},
	{"projector_ledger_events", "Replayed events above the cut, which the ledger has rows for.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		return float64(m.Ledger)
	})},
	{"projector_tail_events", "Events that the new tables lack, once they are built.", func(o *viewschema.Overview) []value {
		if o.Migration == nil || o.Migration.State != replay.Built {
			return nil
		}
		return one(float64(o.Migration.Tail))
	}},
	{"projector_parked_aggregates", "Aggregates that the live version, or the one under way, leaves out.", func(o *viewschema.Overview) []value {
		return one(float64(len(o.Parked)))
	}},
	{"projector_workers", "Sessions that are at work: each has a batch, has the lane, or verifies.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		return float64(len(m.Workers))
	})},
	{"projector_lost_workers", "Sessions among these behind which there is nobody: the process has died, hangs, or is cut off.", ofMigration(func(m *viewschema.MigrationStatus) float64 {
		n := 0
		for _, w := range m.Workers {
			if w.State == viewschema.WorkerLost {
				n++
			}
		}
		return float64(n)
	})},
	{"projector_runs_at_work", "Commands at work.", runs(func(r viewschema.RunStatus) bool { return r.Outcome == viewschema.OutcomeWorking })},
	{"projector_runs_holding_back", "Commands at work that hold back, for a limit or because they are paused.", runs(func(r viewschema.RunStatus) bool {
		return r.Outcome == viewschema.OutcomeWorking && r.Holding != ""
	})},
	{"projector_last_failure_timestamp_seconds", "When the last command that failed ended.", func(o *viewschema.Overview) []value {
		for _, r := range o.Runs { // the newest first
			if r.Outcome == viewschema.OutcomeFailed && r.Ended != nil {
				return one(float64(r.Ended.UnixMilli()) / 1000)
			}
		}
		return nil
	}},
	{"projector_replication_standbys", "Standbys and subscribers that are connected.", func(o *viewschema.Overview) []value {
		return one(float64(o.Replication.Standbys))
	}},
	{"projector_replication_lag_seconds", "How far the slowest of them is behind.", func(o *viewschema.Overview) []value {
		return known(o.Replication.Seconds)
	}},
	{"projector_replication_lag_bytes", "How much WAL the slowest of them has not replayed.", func(o *viewschema.Overview) []value {
		return known(o.Replication.Bytes)
	}},
	{"projector_longest_transaction_seconds", "Age of the longest transaction in the way; 0: there is none.", func(o *viewschema.Overview) []value {
		switch {
		case o.InTheWay == nil:
			return one(0)
		case o.InTheWay.Since == nil:
			return nil
		}
		return one(max(0, o.At.Sub(*o.InTheWay.Since).Seconds()))
	}},
	{"projector_table_bytes", "Size of a table with its indexes, by its role: live, built, partial or archived.", func(o *viewschema.Overview) (list []value) {
		for _, t := range o.Tables {
			list = append(list, value{float64(t.Bytes), []string{"table", t.Table, "role", t.Role}})
		}
		return list
	}},
}

func one(number float64) []value { return []value{{number: number}} }

func known[N int64 | float64](number *N) []value {
	if number == nil {
		return nil
	}
	return one(float64(*number))
}

// ofMigration is a metric that there is while a migration is under way.
func ofMigration(read func(*viewschema.MigrationStatus) float64) func(*viewschema.Overview) []value {
	return func(o *viewschema.Overview) []value {
		if o.Migration == nil {
			return nil
		}
		return one(read(o.Migration))
	}
}

func states(o *viewschema.Overview) (list []value) {
	for _, state := range []replay.State{replay.Building, replay.Built, replay.Aborting} {
		is := 0.
		if o.Migration != nil && o.Migration.State == state {
			is = 1
		}
		list = append(list, value{is, []string{"state", string(state)}})
	}
	return list
}

func batches(o *viewschema.Overview) (list []value) {
	if o.Migration == nil {
		return nil
	}
	type key struct {
		phase string
		state viewschema.BatchState
	}
	count := map[key]int{}
	for _, b := range o.Batches {
		count[key{b.Phase, b.State}]++
	}
	for _, phase := range []replay.Phase{replay.PhaseReplay, replay.PhaseMerge, replay.PhaseIndex, replay.PhaseAnalyze} {
		for _, state := range []viewschema.BatchState{viewschema.BatchWaiting, viewschema.BatchRunning, viewschema.BatchDone, viewschema.BatchFailed} {
			n := count[key{phase.String(), state}]
			list = append(list, value{float64(n), []string{"phase", phase.String(), "state", string(state)}})
		}
	}
	return list
}

func runs(is func(viewschema.RunStatus) bool) func(*viewschema.Overview) []value {
	return func(o *viewschema.Overview) []value {
		n := 0
		for _, r := range o.Runs {
			if is(r) {
				n++
			}
		}
		return one(float64(n))
	}
}

// exposition writes the metrics in the text format of Prometheus, version 0.0.4.
func exposition(o *viewschema.Overview) []byte {
	var b bytes.Buffer
	for _, m := range metrics {
		values := m.values(o)
		if len(values) == 0 {
			continue
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %[1]s gauge\n", m.name, inHelp.Replace(m.help))
		for _, v := range values {
			fmt.Fprintf(&b, "%s{schema=\"%s\"", m.name, inLabel.Replace(o.Schema))
			for i := 0; i < len(v.labels); i += 2 {
				fmt.Fprintf(&b, ",%s=\"%s\"", v.labels[i], inLabel.Replace(v.labels[i+1]))
			}
			fmt.Fprintf(&b, "} %s\n", strconv.FormatFloat(v.number, 'g', -1, 64))
		}
	}
	return b.Bytes()
}

var (
	inHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	inLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	o, err := s.latest.get(r.Context())
	if err != nil {
		http.Error(w, reason(err), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	write(w, exposition(o.overview))
}
