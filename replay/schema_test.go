package replay_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/viewschema"
)

// schema is the process that an operator has: package viewschema with its real cutover, and one batch.
type schema struct {
	db     *pgxpool.Pool
	tables tables
	// patient is the first cut's; a catch-up always waits, for some seconds at most.
	patient bool
}

func (s *schema) open() (*viewschema.Schema, error) {
	o := viewschema.Options{Workers: 1}
	if !s.patient {
		o.CutTimeout = impatience
	}
	return viewschema.Open(s.db, s.tables.definition(), o)
}

func (s *schema) begin(_ context.Context, patient bool) error {
	s.patient = patient
	return nil // the run begins
}

// resume does a command again as long as the server ends its session: each goes on where it stopped.
func (s *schema) resume(command func(v *viewschema.Schema) error) error {
	v, err := s.open()
	if err != nil {
		return err
	}
	for {
		if err := command(v); !pg.IsConnectionLost(err) {
			return err
		}
	}
}

func (s *schema) run(ctx context.Context) error {
	return s.resume(func(v *viewschema.Schema) error { _, err := v.MigrateOnline(ctx); return err })
}

func (s *schema) catchUp(ctx context.Context, _ bool) error {
	return s.resume(func(v *viewschema.Schema) error { _, err := v.CatchUp(ctx); return err })
}

func (s *schema) cutover(ctx context.Context) error {
	return s.resume(func(v *viewschema.Schema) error { _, err := v.MigrateOffline(ctx); return err })
}

// commands is how many interleavings of commands there are; they are slow.
const commands = 60

// The same as TestInterleavings with the commands of package viewschema. Seen to fail without the writers' lock.
func TestInterleavingsOfCommands(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, in tables) {
		w := newWorld(t, plain, in)
		done := 0
		rapid.Check(t, func(t *rapid.T) {
			sc := scripts.Draw(t, "script")
			if done == commands {
				return
			}
			if err := w.interleaveCommands(sc); err != nil {
				t.Fatal(err)
			}
			done++
		})
		t.Logf("%d interleavings", done)
	})
}

func (w *world) interleaveCommands(sc script) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.empty(ctx); err != nil {
		return err
	}
	_, err := w.admin.Exec(ctx, `
		drop table if exists tallies, tallies_1, twins, twins_1, halves, halves_1, projector_partial_halves_1, at_1;
		delete from projector_batches;
		delete from projector_tables`)
	if err != nil {
		return err
	}
	sc.Run.Patient, sc.Cutover.Patient = sc.Begin.Patient, true
	for i := range sc.CatchUps {
		sc.CatchUps[i].Patient = true
	}
	m := w.migration(ctx, &schema{db: w.db, tables: w.tables}, nil, func(string) {})
	m.suffix = ""
	return m.interleave(sc)
}
