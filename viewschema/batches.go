package viewschema

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// BatchState is where a batch stands.
type BatchState string

// The states of a batch.
const (
	BatchWaiting BatchState = "waiting"
	BatchRunning BatchState = "running" // a worker has claimed it
	BatchDone    BatchState = "done"
	BatchFailed  BatchState = "failed" // the last run ended with its error, and nobody has claimed it since
)

// Batch is a step of a rebuild.
type Batch struct {
	Number  int        `json:"number"`
	Phase   string     `json:"phase"`
	State   BatchState `json:"state"`
	Label   string     `json:"label"`  // its range of ids, shortened; or its table
	From    int        `json:"from"`   // replay: its first cell of the grid …
	To      int        `json:"to"`     // … and its last
	Events  int64      `json:"events"` // about how many, until it is done
	Rows    int64      `json:"rows"`
	Started *time.Time `json:"started"`
	Done    *time.Time `json:"done"`
	Seconds float64    `json:"seconds"` // that it took, or that it has been running
	Worker  string     `json:"worker"`  // empty: it waits
}

// Grid is what the 4096 cells of the batches are.
type Grid string

// What a cell of the grid can be.
const (
	GridNone       Grid = ""           // no batch replays events
	GridPartitions Grid = "partitions" // the ids that share their first three hex digits
	GridSlices     Grid = "slices"     // 1/4096 of the events, about, in the order of ids: those do not spread over partitions
)

// gridCells is how many cells the grid has: 16³.
const gridCells = 4096

// bounds are a batch's ids, as text; empty: open.
type bounds struct{ from, to string }

// batches reads the migration's batches. Failed is the one that the last run failed at.
func (s *Schema) batches(ctx context.Context, m *migration, workers []Worker, failed int, now time.Time) ([]Batch, Grid, error) {
	holders := map[int]Worker{}
	for _, w := range workers {
		holders[w.Batch] = w
	}
	rows, err := s.db.Query(ctx, s.sql(`
		select number, phase, coalesce(from_id, ''), coalesce(to_id, ''), coalesce(table_name, ''), case when done_at is null then estimate else events end,
			rows, coalesce(worker, ''), started_at, done_at
		from %SCHEMA%.projector_batches
		where migration_id = $1
		order by number`), m.Migration)
	list, ids := []Batch{}, []bounds{}
	if err == nil {
		var b Batch
		var id bounds
		var phase replay.Phase
		var worker string
		_, err = pgx.ForEachRow(rows, []any{&b.Number, &phase, &id.from, &id.to, &b.Label, &b.Events, &b.Rows, &worker, &b.Started, &b.Done}, func() error {
			one := b
			one.Phase, one.State = phase.String(), BatchWaiting
			holder, held := holders[b.Number]
			switch {
			case b.Done != nil:
				if b.Started == nil { // somebody has edited it
					one.Started = b.Done
				}
				one.State, one.Worker, one.Seconds = BatchDone, worker, b.Done.Sub(*one.Started).Seconds()
			case held:
				one.State, one.Started = BatchRunning, holder.Since
				one.Worker = holder.session()
				if holder.Since != nil {
					one.Seconds = max(0, now.Sub(*holder.Since).Seconds())
				}
			case b.Number == failed:
				one.State = BatchFailed
			}
			list, ids = append(list, one), append(ids, id)
			return nil
		})
	}
	if err != nil {
		return nil, GridNone, fmt.Errorf("reading the batches: %w", err)
	}
	return list, place(list, ids), nil
}

// place gives the batches that replay events their labels and their cells. Where most bounds lie inside of a partition, as with UUIDv7,
// or are no uuids, a cell is a share of the events.
func place(list []Batch, ids []bounds) Grid {
	replayed, inside, uuids := 0, 0, true
	for i, b := range list {
		if b.Phase != replay.PhaseReplay.String() {
			continue
		}
		replayed++
		for _, id := range []string{ids[i].from, ids[i].to} {
			uuids = uuids && (id == "" || isUUID(id))
		}
		if uuids && ids[i].from != "" && !onEdge(ids[i].from) {
			inside++
		}
	}
	if replayed == 0 {
		return GridNone
	}
	grid := GridPartitions
	if !uuids || 2*inside > replayed {
		grid = GridSlices
	}
	var sum, total int64
	for i, b := range list {
		if b.Phase == replay.PhaseReplay.String() {
			total += max(1, b.Events)
			list[i].Label = label(ids[i], uuids)
		}
	}
	for i := range list {
		b := &list[i]
		switch {
		case b.Phase != replay.PhaseReplay.String():
		case grid == GridPartitions:
			b.From, b.To = partitions(ids[i])
		default:
			next := sum + max(1, b.Events)
			b.From = int(sum * gridCells / total)
			b.To = max(b.From, int((next*gridCells+total-1)/total)-1)
			sum = next
		}
	}
	return grid
}

// partitions returns the first and the last partition that a range of uuids has ids of.
func partitions(id bounds) (first, last int) {
	first, last = 0, gridCells-1
	if id.from != "" {
		first = partition(id.from)
	}
	if id.to != "" {
		if last = partition(id.to); onEdge(id.to) {
			last--
		}
	}
	return first, max(first, last)
}

func partition(id string) int {
	n, _ := strconv.ParseUint(id[:3], 16, 16) // a uuid's first digits
	return int(n)
}

// onEdge says whether a uuid is the lowest of its partition.
func onEdge(id string) bool { return strings.Trim(id[3:], "0-") == "" }

// isUUID says whether an id is written as PostgreSQL writes a uuid, so that its order as text is that of the uuid.
func isUUID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

// longestLabel is how much of an id that is text a label has.
const longestLabel = 20

func label(id bounds, uuids bool) string {
	parse := func(text string) projections.ID {
		if u, err := uuid.Parse(text); uuids && err == nil {
			return projections.UUID(u)
		}
		if runes := []rune(text); len(runes) > longestLabel {
			text = string(runes[:longestLabel]) + "…"
		}
		return projections.Text(text)
	}
	r := eventstore.Range{}
	if id.from != "" {
		r.From = parse(id.from)
	}
	if id.to != "" {
		r.To = parse(id.to)
	}
	return r.Label()
}
