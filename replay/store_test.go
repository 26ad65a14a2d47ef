package replay_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// kind is how an event store gives out its positions.
type kind string

const (
	plain       kind = "plain"
	partitioned kind = "partitioned" // writers also insert into the partitions themselves
	cached      kind = "cached"      // a number can be drawn in an earlier transaction
	shared      kind = "shared"      // the transaction's id is the position of all its events
	ordered     kind = "ordered"     // whoever has a position keeps others from having one until it commits
	elsewhere   kind = "elsewhere"   // to the migration, the events are in another database; it is the same, so that it can be checked
)

var kinds = []kind{plain, shared, partitioned, cached, ordered, elsewhere}

// aggregates are few, so that writers, batches and passes meet in them.
var aggregates = []string{"a", "b", "c", "d"}

func (k kind) table() string {
	const columns = `(position bigint not null default nextval('positions'), aggregate_id text not null, sequence_number int not null,
		event_type text not null, data jsonb not null, unique (aggregate_id, sequence_number))`
	switch k {
	case partitioned:
		return "create sequence positions; create table events " + columns + ` partition by list (aggregate_id);
			create table events_ab partition of events for values in ('a', 'b') with (autovacuum_enabled = off);
			create table events_cd partition of events for values in ('c', 'd') with (autovacuum_enabled = off)`
	case shared:
		return "create table events " + strings.Replace(columns, "nextval('positions')", "pg_current_xact_id()::text::bigint", 1) + " with (autovacuum_enabled = off)"
	case ordered:
		return `create table counter (n bigint not null); insert into counter values (0);
			create function next_position() returns bigint language sql as 'update counter set n = n + 1 returning n';
			create table events ` + strings.Replace(columns, "nextval('positions')", "next_position()", 1) + " with (autovacuum_enabled = off)"
	case cached:
		return "create sequence positions cache 3; create table events " + columns + " with (autovacuum_enabled = off)"
	}
	return "create sequence positions; create table events " + columns + " with (autovacuum_enabled = off)"
}

// draw is the SQL that gives out a position.
func (k kind) draw() string {
	switch k {
	case shared:
		return "pg_current_xact_id()::text::bigint"
	case ordered:
		return "next_position()"
	}
	return "nextval('positions')"
}

func (k kind) mapping() eventstore.Mapping {
	switch k {
	case shared:
		return eventstore.Mapping{Positions: eventstore.PositionsOfTransactions}
	case ordered:
		return eventstore.Mapping{Positions: eventstore.PositionsInCommitOrder}
	}
	return eventstore.Mapping{}
}

// leaf is the partition of an aggregate.
func leaf(aggregate string) string {
	if aggregate < "c" {
		return "events_ab"
	}
	return "events_cd"
}

// tally is the row of an aggregate: which events it has seen, in their order. An event that is lost is not in it, one that
// is applied twice is in it twice.
type tally struct {
	bun.BaseModel `bun:"table:tallies"`
	ID            string `bun:"id,pk"`
	Total         int64  `bun:"total"`
	Last          int64  `bun:"last"`
	Seen          string `bun:"seen"`
}

type added struct {
	Amount int64 `json:"amount"`
	Poison bool  `json:"poison"` // it cannot be projected
}

var tallies = projections.NewRows(func(t *tally) string { return t.ID })

// half is a row that half of the aggregates add to: an event that is lost is not counted, one that is applied twice is counted
// twice.
type half struct {
	bun.BaseModel `bun:"table:halves"`
	Name          string `bun:"name,pk"`
	Events        int64  `bun:"events" view:"count"`
	Total         int64  `bun:"total" view:"sum"`
	Longest       int64  `bun:"longest" view:"max"`
}

var halves = projections.NewTotals[half]()

func halfOf(aggregate string) string {
	if aggregate < "c" {
		return "ab"
	}
	return "cd"
}

// Of these two projectors, one adds the aggregates up as well.
var (
	talliesProjector = newTallies(true)
	talliesAlone     = newTallies(false)
)

// newTallies makes a projector that is strict: an event that comes again, or after a later one of its aggregate, is an error.
func newTallies(adds bool) *projections.Projector {
	p := &projections.Projector{Name: "tallies", Tables: []projections.Table{tallies}}
	if adds {
		p.Tables = append(p.Tables, halves)
	}
	p.Handlers = []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[added]) error {
		if h, ok := s.Context().Value(hookKey{}).(hook); ok {
			h(nil, handling)
		}
		if e.Data.Poison {
			return errors.New("poison")
		}
		var late error
		err := tallies.Upsert(s, e.AggregateID.String(), func(t *tally, _ bool) {
			if e.Sequence <= t.Last {
				late = fmt.Errorf("event %d came after event %d", e.Sequence, t.Last)
			}
			t.ID = e.AggregateID.String()
			t.add(e.Sequence, e.Data.Amount)
		})
		if err = errors.Join(err, late); err != nil || !adds {
			return err
		}
		return halves.Add(s, half{Name: halfOf(e.AggregateID.String()), Total: e.Data.Amount, Longest: e.Sequence})
	})}
	return p
}

const talliesSQL = "create table tallies%SUFFIX% (id text primary key, total bigint not null, last bigint not null, seen text not null)"

const halvesSQL = "create table halves%SUFFIX% (name text primary key, events bigint not null, total bigint not null, longest bigint not null)"

// talliesQuery makes the same rows.
const talliesQuery = `
select aggregate_id as id, sum((data ->> 'amount')::bigint) as total, max(sequence_number) as last,
	string_agg(' ' || sequence_number, '' order by sequence_number) as seen
from %EVENTS%
where event_type = 'Added'
group by aggregate_id;
`

// tables says who fills them.
type tables string

const (
	inGo   tables = "in Go"           // tallies, and halves
	inSQL  tables = "in SQL"          // tallies
	inBoth tables = "in both"         // tallies in Go, and the same rows in SQL: twins; and halves
	inLane tables = "in the lane"     // lines, in the order of the store
	beside tables = "beside the lane" // tallies in Go, and lines

	// Without halves, from which what a parked aggregate has added cannot be taken out.
	aloneInGo   tables = "alone in Go"
	aloneInBoth tables = "alone in both"
)

// adds says whether there are halves.
func (in tables) adds() bool { return in == inGo || in == inBoth }

// made lists the tables of a migration that are replayed by aggregate, and the side table of halves.
func (in tables) made() []string {
	all := in.names()
	if in.adds() {
		all = append(all, "halves", "projector_partial_halves")
	}
	return all
}

// names lists those with a row for each aggregate.
func (in tables) names() []string {
	switch in {
	case inBoth, aloneInBoth:
		return []string{"tallies", "twins"}
	case inLane:
		return nil
	}
	return []string{"tallies"}
}

func (in tables) definition() viewschema.Definition {
	inSQLNamed := func(table string) *projections.Projector {
		return &projections.Projector{Name: table, Tables: []projections.Table{&projections.SQLTable{Name: table, Aggregate: "id", Query: talliesQuery}}}
	}
	d := viewschema.Definition{Versions: projector.Versions{}}
	views := fstest.MapFS{}
	for _, table := range in.names() {
		views[table+".sql"] = &fstest.MapFile{Data: []byte(in.sql(table))}
	}
	d.Views = views
	if in != inSQL { // there are events that nobody handles, too: they are Noted
		d.Events = []projections.EventType{projections.JSON[added]("Added"), projections.Ignore("Noted")}
		d.Projectors = append(d.Projectors, talliesAlone)
	}
	if in.adds() {
		d.Projectors[0] = talliesProjector
		views["halves.sql"] = &fstest.MapFile{Data: []byte(halvesSQL)}
	}
	switch in {
	case inSQL:
		d.Projectors = append(d.Projectors, inSQLNamed("tallies"))
	case inBoth, aloneInBoth:
		d.Projectors = append(d.Projectors, inSQLNamed("twins"))
	case inLane:
		d.Projectors = []*projections.Projector{linesProjector}
	case beside:
		d.Projectors = append(d.Projectors, linesProjector)
	}
	if in.hasLane() {
		views["lines.sql"] = &fstest.MapFile{Data: []byte(linesSQL)}
	}
	for _, p := range d.Projectors {
		d.Versions[1] = append(d.Versions[1], projector.Replay(p))
	}
	return d
}

// clear empties all tables of a migration.
func (w *world) clear(ctx context.Context) error {
	for _, table := range w.tables.made() {
		if _, err := w.admin.Exec(ctx, "delete from "+table+"_1"); err != nil {
			return err
		}
	}
	return nil
}

func (in tables) sql(table string) string { return strings.ReplaceAll(talliesSQL, "tallies", table) }

func (t *tally) add(sequence, amount int64) {
	t.Total += amount
	t.Last = sequence
	t.Seen += fmt.Sprintf(" %d", sequence)
}

// world is a database with an event store, the migration's sessions and those of the writers.
type world struct {
	kind   kind
	tables tables
	parks  bool          // there are events that cannot be projected, and their aggregates are parked
	db     *pgxpool.Pool // the migration's: see hook
	rivals *pgxpool.Pool // of another process that works on the same migration
	events *pgxpool.Pool // of both, for the kind elsewhere; else nil
	admin  *pgx.Conn
	source *eventstore.Reader

	projections *projections.Set
	writers     []*writer
	owners      map[string]*writer // who has appended to the aggregate and is still open
	amounts     int64
}

func newWorld(t *testing.T, k kind, in tables) *world {
	t.Helper()
	ctx, definition := t.Context(), in.definition()
	config, err := pgxpool.ParseConfig(pgtest.DatabaseURL(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 4
	w := &world{kind: k, tables: in, owners: map[string]*writer{}}
	connect := func() *pgx.Conn {
		conn, err := pgx.ConnectConfig(ctx, config.ConnConfig.Copy())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
		return conn
	}
	pool := func() *pgxpool.Pool {
		c := config.Copy()
		c.ConnConfig.Tracer = tracer{}
		db, err := pgxpool.NewWithConfig(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		return db
	}
	w.db, w.rivals, w.admin = pool(), pool(), connect()
	if k == elsewhere {
		config.MaxConns = 8
		w.events = pool()
	}
	schema, err := viewschema.Open(w.db, definition, viewschema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Init(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.admin.Exec(ctx, k.table()+"; set search_path = view_schema, public"); err != nil {
		t.Fatal(err)
	}
	if w.source, err = eventstore.Open(ctx, w.db, k.mapping()); err != nil {
		t.Fatal(err)
	}
	set, err := projections.NewSet(definition.Events, definition.Projectors...)
	if err != nil {
		t.Fatal(err)
	}
	w.projections = set.In("view_schema", "_1")
	for _, table := range in.names() {
		if _, err := w.admin.Exec(ctx, strings.ReplaceAll(in.sql(table), "%SUFFIX%", "_1")); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range w.projections.Totals() {
		if _, err := w.admin.Exec(ctx, strings.ReplaceAll(halvesSQL, "%SUFFIX%", "_1")+"; "+target.CreatePartial()); err != nil {
			t.Fatal(err)
		}
	}
	if in.hasLane() {
		if _, err := w.admin.Exec(ctx, strings.ReplaceAll(linesSQL, "%SUFFIX%", "_1")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		w.writers = append(w.writers, &writer{world: w, conn: connect(), name: fmt.Sprintf("%s %d", w.db.Config().ConnConfig.Database, i)})
		// While the cutover holds off writers, they give up at once.
		if _, err := w.writers[i].conn.Exec(ctx, "set lock_timeout = '1ms'"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { // a database with a prepared transaction cannot be dropped
		for _, wr := range w.writers {
			if err := wr.finish(context.WithoutCancel(ctx), false); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// empty makes the world ready for the next migration.
func (w *world) empty(ctx context.Context) error {
	w.owners = map[string]*writer{}
	for _, wr := range w.writers {
		if err := wr.finish(ctx, false); err != nil {
			return err
		}
		wr.drawn = nil
	}
	_, err := w.admin.Exec(ctx, `
		delete from events;
		delete from projector_replayed_ids;
		delete from projector_migrations`)
	return err
}
