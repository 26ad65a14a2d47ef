package crashtest

import (
	"context"
	"strings"
	"testing"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
)

// The command line is killed while it parks aggregates, and while it replays one that was parked. The same command goes on from
// there, and when all are mended and replayed, every row is right.
func TestKilledWhileParking(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		point   pg.Point
		prepare []string
		command string
		parked  map[pg.Moment]string // after the crash
	}{
		"a batch": {
			pg.PointPark, nil, "migrate online --on-error=park",
			map[pg.Moment]string{pg.Before: "0", pg.After: "1"},
		},
		"a group": {
			pg.PointPark,
			[]string{"migrate online --on-error=park", "tail"},
			"migrate catchup --on-error=park",
			map[pg.Moment]string{pg.Before: "1", pg.After: "2"},
		},
		"a retry": {
			pg.PointRetry,
			[]string{"migrate online --on-error=park", "tail", "migrate catchup --on-error=park", "mend"},
			"events retry",
			map[pg.Moment]string{pg.Before: "2", pg.After: "1"},
		},
	} {
		for moment, want := range test.parked {
			t.Run(name+" "+string(moment), func(t *testing.T) {
				t.Parallel()
				db := pgtest.Database(t, atVersion1)
				poison := func(order string) {
					execute(t, db, "insert into kept select position, data from events where event_type = 'MoneyDeposited' order by position "+order+" limit 1")
					execute(t, db, "update events set data = '[]' where position in (select position from kept)")
				}
				execute(t, db, "create table kept (position bigint, data jsonb)")
				poison("asc")
				do := func(step string) {
					switch step {
					case "tail":
						appendEvents(t, db.Config().ConnString(), 100, 2)
						poison("desc")
					case "mend":
						execute(t, db, "update events e set data = k.data from kept k where k.position = e.position")
					default:
						if exit, _, stderr := exits(t, db, "alone", strings.Fields("--workers 1 "+step)...); exit != 0 {
							t.Fatalf("%s: exit code %d\n%s", step, exit, stderr)
						}
					}
				}
				for _, step := range test.prepare {
					do(step)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				crash := newCommand(ctx, db, "alone", string(moment)+":"+string(test.point), strings.Fields("--workers 1 "+test.command)...)
				_ = crash.Run() // see killed
				if ctx.Err() != nil || !crash.killed(t) {
					t.Fatalf("%s: it did not come to the commit", crash.ProcessState)
				}
				var parked string
				if err := db.QueryRow(t.Context(), "select count(*)::text from view_schema.projector_parked_events").Scan(&parked); err != nil || parked != want {
					t.Errorf("after the crash, %s are parked, want %s; %v", parked, want, err)
				}
				for _, step := range []string{test.command, "mend", "events retry", "migrate offline"} {
					do(step)
				}
				verify(t, db, 1)
			})
		}
	}
}
