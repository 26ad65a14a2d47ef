package viewschema_test

import (
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

type visitor struct {
	bun.BaseModel `bun:"table:visitors"`
	Name          string `bun:"name,pk" view:"aggregate"`
	Visits        int64  `bun:"visits"`
}

type visited struct{}

func visitorsDefinition() viewschema.Definition {
	visitors := projections.NewRows(func(v *visitor) string { return v.Name })
	counting := &projections.Projector{
		Name: "visitors", Tables: []projections.Table{visitors},
		Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[visited]) error {
			return visitors.Upsert(s, e.AggregateID.String(), func(v *visitor, _ bool) {
				v.Name, v.Visits = e.AggregateID.String(), v.Visits+1
			})
		})},
	}
	return viewschema.Definition{
		Events:     []projections.EventType{projections.JSON[visited]("Visited")},
		Projectors: []*projections.Projector{counting},
		Versions:   projector.Versions{1: {projector.Replay(counting)}},
		Views: fstest.MapFS{"visitors.sql": &fstest.MapFile{
			Data: []byte("create table visitors%SUFFIX% (name text primary key, visits bigint not null)"),
		}},
	}
}

// A rebuild sorts events that are in memory, even if their ids have an order that an index knows, and text ids in less than work_mem:
// there are temporary files that it could do without.
func TestRebuildSorts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		idType, id, workMem string
		spills              bool
	}{
		"uuid, in much":   {"uuid", "lpad(to_hex(i / 20), 32, '0')::uuid", "64MB", false},
		"uuid, in little": {"uuid", "lpad(to_hex(i / 20), 32, '0')::uuid", "8MB", true},
		"text":            {"text", "'visitor-' || i / 20", "64MB", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, emptyStore)
			mustExec(t, db, "alter table events alter column aggregate_id type "+c.idType)
			mustExec(t, db, "insert into events (aggregate_id, sequence_number, event_type, data) select "+c.id+", i, 'Visited', jsonb_build_object('note', repeat('x', 250)) from generate_series(0, 59999) i")
			mustExec(t, db, "analyze events")
			config := db.Config()
			maps.Copy(config.ConnConfig.RuntimeParams, map[string]string{
				"work_mem": c.workMem, "random_page_cost": "1", "log_temp_files": "0", "client_min_messages": "log",
			})
			var files atomic.Int32
			config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
				if strings.HasPrefix(n.Message, "temporary file") {
					files.Add(1)
				}
			}
			logging, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer logging.Close()
			if r := online(t, oneWorker(t, logging, visitorsDefinition())); r.Events != 60_000 || r.Rows != 3000 {
				t.Errorf("%+v", r)
			}
			if spills := files.Load() > 0; spills != c.spills {
				t.Errorf("there were %d temporary files", files.Load())
			}
		})
	}
}
