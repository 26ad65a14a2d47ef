package viewschema_test

import (
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

// A rebuild sorts events with text ids in less than work_mem, and so in temporary files that it could do without; those with UUIDs it does
// not.
func TestTextIDsAreSortedInLittle(t *testing.T) {
	t.Parallel()
	for idType, id := range map[string]string{"text": "'visitor-' || i % 3001", "uuid": "md5((i % 3001)::text)::uuid"} {
		t.Run(idType, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, nil)
			mustExec(t, db, `
				create table events (
					position bigint generated always as identity primary key, aggregate_id `+idType+` not null, sequence_number bigint not null,
					event_type text not null, data jsonb not null, created_at timestamptz not null default now(),
					unique (aggregate_id, sequence_number))`)
			mustExec(t, db, "insert into events (aggregate_id, sequence_number, event_type, data) select "+id+", i, 'Visited', '{}' from generate_series(1, 60000) i")
			mustExec(t, db, "analyze events")
			config := db.Config()
			for name, value := range map[string]string{"work_mem": "64MB", "log_temp_files": "0", "client_min_messages": "log"} {
				config.ConnConfig.RuntimeParams[name] = value
			}
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
			if r := online(t, open(t, logging, visitorsDefinition())); r.Events != 60_000 || r.Rows != 3001 {
				t.Errorf("%+v", r)
			}
			if spilled := files.Load() > 0; spilled != (idType == "text") {
				t.Errorf("there were %d temporary files", files.Load())
			}
		})
	}
}
