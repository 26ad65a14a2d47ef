package eventstore_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
)

// A probe reads all events of a small store, and no more than a part of a large one, whatever the mapping.
func TestProbe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		idType, view string
		mapping      eventstore.Mapping
	}{
		"uuid":       {idType: "uuid"},
		"text":       {idType: "text"},
		"filter":     {idType: "text", mapping: eventstore.Mapping{Where: "e.event_type <> 'Ignored'"}},
		"view":       {idType: "uuid", view: "create view stored as select * from events", mapping: eventstore.Mapping{Relation: "stored"}},
		"expression": {idType: "text", mapping: eventstore.Mapping{AggregateID: "('x' || e.aggregate_id)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sql := []string{
				table(c.idType), `insert into events (aggregate_id, sequence_number, event_type, data)
				select md5((i % 701)::text)::uuid, i, 'Moved', jsonb_build_object('i', i) from generate_series(1, 60000) i`, "analyze events",
			}
			if c.view != "" {
				sql = append(sql, c.view)
			}
			db := store(t, sql...)
			r := reader(t, db, c.mapping)
			inTx(t, db, func(tx pgx.Tx) {
				if p, err := r.Probe(t.Context(), tx, eventstore.Sorting{}); err != nil || p.Events != 60_000 || p.Took <= 0 {
					t.Errorf("a small store: %+v, %v", p, err)
				}
				if p, err := r.ProbeSome(t.Context(), tx, 5_000); err != nil || p.Events < 500 || p.Events > 5_000 || p.Took <= 0 {
					t.Errorf("a sample: %+v, %v", p, err)
				}
			})
		})
	}
}
