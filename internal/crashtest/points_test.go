package crashtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/internal/pgtest"
)

// commit is one at which the command line is killed.
type commit struct {
	point         pg.Point
	nth           int
	setup         pgtest.Setup
	tail          int      // events that are appended after the preparation
	prepare       []string // commands
	command       string
	before, after string   // the state that a crash before it leaves, and one after it
	finish        []string // commands
}

var (
	online  = []string{"migrate online"}
	migrate = []string{"migrate online", "migrate offline"}
)

// twoGroups is more than a catch-up applies in one transaction.
const twoGroups = 3_500

var commits = []commit{
	{pg.PointInit, 1, filledStore, 0, nil, "init", "version 0", "version 0", migrate},
	{pg.PointBegin, 1, atVersion1, 0, nil, "migrate online", "version 1", "version 1, building, replay 0", migrate},
	{pg.PointBatch, 1, atVersion1, 0, nil, "migrate online", "version 1, building, replay 0", "version 1, building, replay 1", migrate},
	{pg.PointBatch, 2, atVersion1, 0, nil, "migrate online", "version 1, building, replay 1", "version 1, building, replay 2", migrate},
	{pg.PointBatch, 4, atVersion1, 0, nil, "migrate online", "version 1, building, merge 0", "version 1, building, index 0", migrate},
	{pg.PointBuilt, 1, atVersion1, 0, nil, "migrate online", "version 1, building, done 0", "version 1, built, done 0", migrate},
	{pg.PointList, 1, atVersion1, twoGroups, online, "migrate catchup", "version 1, built, done 0, tail", "version 1, built, done 0, tail", migrate},
	{pg.PointGroup, 1, atVersion1, twoGroups, online, "migrate catchup", "version 1, built, done 0, tail", "version 1, built, done 0, tail, ledger", migrate},
	{pg.PointGroup, 2, atVersion1, twoGroups, online, "migrate catchup", "version 1, built, done 0, tail, ledger", "version 1, built, done 0, tail, ledger", migrate},
	{pg.PointLane, 1, atVersion1, twoGroups, online, "migrate catchup", "version 1, built, done 0, tail, ledger", "version 1, built, done 0, ledger", migrate},
	{pg.PointCut, 1, atVersion1, twoGroups, online, "migrate catchup", "version 1, built, done 0, ledger", "version 1, built, done 0", migrate},
	{pg.PointCutover, 1, atVersion1, twoGroups, online, "migrate offline", "version 1, built, done 0", "version 2", migrate},
	{pg.PointComplete, 1, referenced, 0, online, "migrate offline", "version 2", "version 2", nil},
	{pg.PointAborting, 1, atVersion1, 0, online, "migrate abort --yes", "version 1, built, done 0", "version 1, aborting, done 0", migrate},
	{pg.PointAbort, 1, atVersion1, 0, online, "migrate abort --yes", "version 1, aborting, done 0", "version 1", migrate},
	{pg.PointCreateTables, 1, filledStore, 0, nil, "tables create", "version 0", "version 2, empty", []string{"replay --yes"}},
	{pg.PointReplay, 1, filledStore, 0, []string{"tables create"}, "replay --yes", "version 2, empty", "version 2", nil},
	{pg.PointClean, 1, atVersion1, 0, migrate, "clean --older-than 0s --yes", "version 2", "version 2", nil},
}

// The command line is killed before and after each kind of commit that it has, of those of which there are
// several the second and the merge included; the same command then goes on from there, and in the end every row is right. This was seen to fail with
// a batch marked as done in a transaction after that of its rows, with the ledger of a catch-up written in a transaction
// before that of the rows, with the cutover's names committed before its version, and with a point added that no command has.
func TestKilledAtEveryCommit(t *testing.T) {
	t.Parallel()
	elsewhere := []pg.Point{
		pg.PointPrepare, pg.PointFill, // of an event table: see the tests of eventtable
		pg.PointPark, pg.PointRetry, // see parked_test.go
		pg.PointTakeBack, // see TestKilledInARollback
	}
	for _, point := range pg.Points {
		if slices.Contains(elsewhere, point) {
			continue
		}
		if !slices.ContainsFunc(commits, func(c commit) bool { return c.point == point }) {
			t.Errorf("no test kills the command line at the commit %q", point)
		}
	}
	for _, c := range commits {
		for moment, want := range map[pg.Moment]string{pg.Before: c.before, pg.After: c.after} {
			fault := fmt.Sprintf("%s:%s:%d", moment, c.point, c.nth)
			t.Run(fault, func(t *testing.T) {
				t.Parallel()
				db := pgtest.Database(t, c.setup)
				for _, command := range c.prepare {
					run(t, db, strings.Fields(command)...)
				}
				if c.tail > 0 {
					appendEvents(t, db.Config().ConnString(), c.tail, 2)
				}

				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				crash := newCommand(ctx, db, "plain", fault, strings.Fields("--workers 1 "+c.command)...)
				_ = crash.Run() // see killed
				if ctx.Err() != nil || !crash.killed(t) {
					t.Fatalf("%s: it did not come to the commit", crash.ProcessState)
				}
				if got := state(t, db); got != want {
					t.Errorf("after the crash: %s; want %s", got, want)
				}
				for _, command := range append([]string{c.command}, c.finish...) {
					run(t, db, strings.Fields(command)...)
				}
				if got := state(t, db); got != "version 2" {
					t.Errorf("in the end: %s", got)
				}
			})
		}
	}
}

// The same where it differs for tables that queries fill. Seen to fail with the rows of a batch stored in a transaction
// of their own, and with the positions of a group recorded in one.
func TestKilledInSQL(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"batch:1", "group:1", "group:2", "cut:1", "cutover:1"} {
		for _, moment := range []pg.Moment{pg.Before, pg.After} {
			fault := string(moment) + ":" + point
			t.Run(fault, func(t *testing.T) {
				t.Parallel()
				db := pgtest.Database(t, atVersion1)
				must := func(command string) {
					if exit, _, stderr := exits(t, db, "SQL", strings.Fields("--workers 1 "+command)...); exit != 0 {
						t.Fatalf("%s: exit code %d\n%s", command, exit, stderr)
					}
				}
				command := "migrate online"
				if point != "batch:1" {
					must(command)
					appendEvents(t, db.Config().ConnString(), twoGroups, 2)
					if command = "migrate catchup"; point == "cutover:1" {
						command = "migrate offline"
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				crash := newCommand(ctx, db, "SQL", fault, strings.Fields("--workers 1 "+command)...)
				_ = crash.Run() // see killed
				if ctx.Err() != nil || !crash.killed(t) {
					t.Fatalf("%s: it did not come to the commit", crash.ProcessState)
				}
				for _, command := range migrate {
					must(command)
				}
				verify(t, db, 2, "accounts", "transactions")
			})
		}
	}
}

// A rollback that is killed is gone on with by the same command. Seen to fail with the ledger moved in a transaction of its own.
func TestKilledInARollback(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"take back:1", "group:1", "cut:1", "cutover:1"} {
		for _, moment := range []pg.Moment{pg.Before, pg.After} {
			fault := string(moment) + ":" + point
			t.Run(fault, func(t *testing.T) {
				t.Parallel()
				db := pgtest.Database(t, atVersion1)
				for _, command := range migrate {
					run(t, db, strings.Fields(command)...)
				}
				appendEvents(t, db.Config().ConnString(), twoGroups, 2)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				crash := newCommand(ctx, db, "former", fault, "--workers", "1", "rollback")
				_ = crash.Run() // see killed
				if ctx.Err() != nil || !crash.killed(t) {
					t.Fatalf("%s: it did not come to the commit", crash.ProcessState)
				}
				if fault == "after:cutover:1" {
					verify(t, db, 1)
					return
				}
				verify(t, db, 2)
				if exit, _, stderr := exits(t, db, "former", "rollback"); exit != 0 {
					t.Fatalf("rollback: exit code %d\n%s", exit, stderr)
				}
				verify(t, db, 1)
			})
		}
	}
}
