package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// A role that may do nothing to the event store but read it builds and catches up; it is only for the cutover that it needs
// more, or that the writers are stopped.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sequent", "sequent8", "axon of JPA", "marten", "emmett", "eventstore", "rails_event_store"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := known[name]
			l := newLayout(t, k.layout, k.replace...)
			role := fmt.Sprintf("reader_%d", rand.Uint64())
			l.exec(fmt.Sprintf(`
				create role %[1]s;
				do $$ begin
					execute format('grant create on database %%I to %[1]s', current_database());
					if exists (select from pg_namespace where nspname = 'sequent_schema') then
						grant usage on schema sequent_schema to %[1]s;
						grant select on all tables in schema sequent_schema to %[1]s;
						grant select on all sequences in schema sequent_schema to %[1]s;
					end if;
				end $$;
				grant select on all tables in schema public to %[1]s;
				grant select on all sequences in schema public to %[1]s;
				alter database %[2]s set lo_compat_privileges = on`, role, pgx.Identifier{l.db.Config().ConnConfig.Database}.Sanitize()))
			t.Cleanup(func() {
				if _, err := l.db.Exec(context.WithoutCancel(t.Context()), "drop owned by "+role+"; drop role "+role); err != nil {
					t.Error(err)
				}
			})
			config := l.db.Config().Copy()
			config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, "set role "+role)
				return err
			}
			db, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			d := bank.WithoutTransfers()
			d.Source = k.over
			d.Source.Preset = k.preset
			open := func(o viewschema.Options) *viewschema.Schema {
				s, err := viewschema.Open(db, d, o)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := open(viewschema.Options{})
			if _, err := s.Plan(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r, err := s.MigrateOnline(t.Context()); err != nil || (r.CutReason == "") != (k.reason == "") {
				t.Fatalf("%+v, %v", r, err)
			}
			l.addLate(lateEvents)
			if r, err := s.CatchUp(t.Context()); err != nil || r.Events != lateEvents {
				t.Fatalf("%+v, %v", r, err)
			}
			if _, err := s.MigrateOffline(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "may not lock") {
				t.Fatalf("got %v", err)
			}
			if _, err := open(viewschema.Options{Maintenance: true}).MigrateOffline(t.Context()); err != nil {
				t.Fatal(err)
			}
			verify(t, l.db, d.Versions.Target())
		})
	}
}

// A store that was restored from a dump of another server, whose transaction ids are ahead, is refused by plan and migration,
// and what they say to type mends it.
func TestRestoredDump(t *testing.T) {
	t.Parallel()
	l := newLayout(t, "sequent8")
	l.exec("update sequent_schema.events set xact_id = xact_id + 1000000000 where sequence_number > 3")
	d := bank.WithoutTransfers()
	d.Source.Preset = "sequent8"
	s, err := viewschema.Open(l.db, d, viewschema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := s.Plan(t.Context())
	if err != nil || len(plan.Hazards) != 1 || plan.Hazards[0].Blocks != viewschema.StageOnline || !strings.Contains(plan.Hazards[0].Text, "restoring a dump") {
		t.Fatalf("%+v, %v", plan, err)
	}
	if _, err := s.MigrateOnline(t.Context()); !errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), "restoring a dump") {
		t.Fatalf("got %v", err)
	}
	_, remedy, _ := strings.Cut(plan.Hazards[0].Text, "update ")
	l.exec("update " + remedy)
	if r, err := s.Plan(t.Context()); err != nil || len(r.Hazards) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	// The bank's own table of transactions has the position as its key, which is not unique here any more.
	d.Projectors, d.Versions = []*projections.Projector{bank.Accounts}, projector.Versions{1: {projector.Replay(bank.Accounts)}}
	if s, err = viewschema.Open(l.db, d, viewschema.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MigrateOnline(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.addLate(lateEvents)
	if r, err := s.MigrateOffline(t.Context()); err != nil || r.Events != lateEvents {
		t.Fatalf("%+v, %v", r, err)
	}
}

// In Rails Event Store, an event that was published to no stream is one of a stream's when it is linked, and not before: it
// is then above the cut.
func TestLinkedLater(t *testing.T) {
	t.Parallel()
	l := newLayout(t, "rails_event_store")
	r := reader(t, l.db, eventstore.Mapping{Preset: "rails_event_store"})
	before, err := r.Settle(t.Context(), l.db, eventstore.Wait{})
	if err != nil {
		t.Fatal(err)
	}
	l.exec(`insert into event_store_events_in_streams (stream, event_id, created_at)
		select 'Report$1', event_id, now() from event_store_events where event_type = 'ReportSent' and id = 7`)
	inTx(t, l.db, func(tx pgx.Tx) {
		if n, err := r.Count(t.Context(), tx, eventstore.Selection{After: before.Position}); err != nil || n != 1 {
			t.Errorf("%d events, %v", n, err)
		}
	})
}
