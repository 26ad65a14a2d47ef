package viewschema_test

import (
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// A value of a unique column moves from an aggregate whose batch is done to one whose batch is not: both rows have it when
// the index is made. Seen to be stuck for good, on every resume, without the catch-up before the index.
func TestUniqueValueMovesWhileBuilding(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s, err := viewschema.Open(db, version2(), viewschema.Options{Workers: 1, Log: zerolog.New(zerolog.NewTestWriter(t))})
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	ctx := pg.WithFault(t.Context(), func(moment pg.Moment, point pg.Point) {
		if moment != pg.After || point != pg.PointBatch {
			return
		}
		once.Do(func() {
			// The largest batches are done first, so any range may be among the done ones.
			tag, err := db.Exec(t.Context(), `
				with done as (
					select coalesce(from_id::uuid, '00000000-0000-0000-0000-000000000000') as lower, to_id::uuid as upper
					from view_schema.projector_batches where done_at is not null and phase = 1 and migration_id = (select max(id) from view_schema.projector_migrations)
				), pending as (
					select coalesce(from_id::uuid, '00000000-0000-0000-0000-000000000000') as lower, to_id::uuid as upper
					from view_schema.projector_batches where done_at is null and phase = 1 and migration_id = (select max(id) from view_schema.projector_migrations)
				), leaver as (
					select a.id, (select data ->> 'iban' from events where aggregate_id = a.id and sequence_number = 1) as iban
					from view_schema.accounts a, done
					where a.id >= lower and (upper is null or a.id < upper)
					limit 1
				), heir as (
					select (left(lower::text, 24) || '00000000beef')::uuid as id from pending limit 1
				), closed as (
					insert into events (aggregate_id, sequence_number, event_type, data)
					select id, (select max(sequence_number) + 1 from events where aggregate_id = leaver.id), 'AccountClosed', '{}' from leaver
				)
				insert into events (aggregate_id, sequence_number, event_type, data)
				select heir.id, 1, 'AccountOpened', jsonb_build_object('owner_name', 'Heir', 'iban', leaver.iban, 'currency', 'EUR', 'branch', 'Gent')
				from heir, leaver`)
			if err != nil || tag.RowsAffected() != 1 {
				t.Errorf("the value did not move: %s, %v", tag, err)
			}
		})
	})
	if _, err := s.MigrateOnline(ctx); err != nil {
		t.Fatal(err)
	}
	offline(t, s)
	verify(t, db, 2)
}
