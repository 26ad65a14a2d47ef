package viewschema

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/estimate"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// tables says how large the new tables will be: as large as those that they take the place of, or else as a sample of the events makes
// them.
func (f *forecast) tables(ctx context.Context, parallel *projections.Set) error {
	replayed := names(f.plan.replayed())
	live, err := f.sizes(ctx, replayed)
	if err != nil {
		return err
	}
	rows, err := f.sample(ctx, parallel)
	if err != nil {
		return err
	}
	var guessed []string
	for _, name := range replayed {
		t, ok := live[name]
		if !ok {
			t = f.unknown(name, rows[name])
			guessed = append(guessed, name)
		}
		f.result.Work.Tables = append(f.result.Work.Tables, t)
	}
	if len(guessed) > 0 {
		f.assume("an index of %s takes %d bytes per row", strings.Join(guessed, ", "), usualEntry)
	}
	return nil
}

// What a table is taken to have of which nothing is known.
const (
	usualRow   = 100 // bytes
	usualEntry = 32  // bytes of an index: a key of 16, and what comes with it
)

// unknown is a table that does not exist yet. In the sample, it has rows per event, or that is not known: 0.
func (f *forecast) unknown(name string, in sampled) estimate.Table {
	w := f.result.Work
	t := estimate.Table{Name: name, Rows: in.rows * w.Events, Bytes: in.bytes * w.Events}
	if !in.known {
		t.Rows = w.Events
		if f.def.owners[name].Order != projections.ByAggregate {
			t.Rows = w.LaneEvents
		}
		t.Bytes = usualRow * t.Rows
		f.assume("%s gets a row of %d bytes for every event of its projector", name, usualRow)
	}
	for _, file := range []string{name + ".sql", name + ".indexes.sql"} {
		t.Indexes += f.def.files[file].indexes()
	}
	t.IndexBytes = usualEntry * t.Rows * float64(t.Indexes)
	return t
}

var (
	indexMade  = regexp.MustCompile(`(?i)\bcreate\s+(?:unique\s+)?index\b|\bprimary\s+key\b|\bexclude\s+using\b`)
	uniqueMade = regexp.MustCompile(`(?i)\bunique\b(?:\s+index\b)?`)
)

// indexes counts the indexes that the file makes.
func (f sqlFile) indexes() (n int) {
	n = len(indexMade.FindAllString(f.code, -1))
	for _, found := range uniqueMade.FindAllString(f.code, -1) {
		if len(found) == len("unique") {
			n++
		}
	}
	return n
}

// sizes looks up how large tables of the view schema are, those that were ever analyzed.
func (f *forecast) sizes(ctx context.Context, tables []string) (map[string]estimate.Table, error) {
	list, err := pg.Collect(ctx, f.db, pgx.RowToStructByPos[estimate.Table], `
		select c.relname::text, sum(greatest(p.reltuples, 0))::float8, sum(pg_relation_size(p.oid))::float8,
			(select count(*) from pg_catalog.pg_index i where i.indrelid = c.oid), sum(pg_indexes_size(p.oid))::float8
		from pg_catalog.pg_class c
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		cross join lateral (`+pg.Partitions("c.oid")+`) tree
		join pg_catalog.pg_class p on p.oid = tree.id and p.relkind = 'r'
		where n.nspname = $1 and c.relname = any ($2)
		group by c.oid, c.relname
		having bool_and(p.reltuples >= 0)`, f.def.Schema, tables)
	if err != nil {
		return nil, fmt.Errorf("looking up the sizes of view tables: %w", err)
	}
	sizes := map[string]estimate.Table{}
	for _, t := range list {
		sizes[t.Name] = t
	}
	return sizes, nil
}

// pastTables are the tables that the last rebuild has made. Of those that are gone, the rows are known, and no more.
func (f *forecast) pastTables(ctx context.Context, l *LastRebuild) ([]estimate.Table, error) {
	made, err := pg.Collect(ctx, f.db, pgx.RowTo[string], f.sql(`
		select case m.state when 'active' then t.table_name when 'archived' then coalesce(later.archived_name, t.table_name) else t.built_name end
		from %SCHEMA%.projector_tables t
		join %SCHEMA%.projector_migrations m on m.id = t.migration_id
		left join lateral (
			select archived_name
			from %SCHEMA%.projector_tables
			where table_name = t.table_name and migration_id > t.migration_id and archived_name is not null
			order by migration_id
			limit 1) later on true
		where t.migration_id = $1 and t.change = 'replay'`), l.migration)
	if err != nil {
		return nil, fmt.Errorf("looking up the tables of the last rebuild: %w", err)
	}
	sizes, err := f.sizes(ctx, made)
	if err != nil {
		return nil, err
	}
	var list []estimate.Table
	rows := float64(l.Rows)
	for _, t := range sizes {
		list = append(list, t)
		rows -= t.Rows
	}
	if len(sizes) < len(made) && rows > 0 {
		list = append(list, estimate.Table{Rows: rows, Bytes: usualRow * rows, Indexes: 1, IndexBytes: usualEntry * rows})
	}
	return list, nil
}

// sampled is what an event makes of a table, on average.
type sampled struct {
	rows, bytes float64
	known       bool
}

// sampleEvents is about how many events the handlers are tried with: some 0.1 s.
const sampleEvents = 10_000

// sample runs the handlers on the events of some aggregates, in memory, and returns what they make by table. It takes the time.
func (f *forecast) sample(ctx context.Context, set *projections.Set) (map[string]sampled, error) {
	found := map[string]sampled{}
	if len(set.Types()) == 0 { // there are none, or SQL tables alone
		return found, nil
	}
	var events []*projections.Raw
	err := peek(ctx, f.events, func(tx pgx.Tx) (err error) {
		events, err = f.someAggregates(ctx, tx, set)
		return err
	})
	if err := f.unless(err, "no sample of the events can be read"); err != nil || len(events) == 0 {
		return found, err
	}
	n := float64(len(events))
	var memory *projections.Memory
	for range 3 { // the quickest counts
		memory = set.Memory()
		began := time.Now()
		if err := memory.Apply(ctx, events...); err != nil {
			e, ok := errors.AsType[*projections.EventError](err)
			if !ok {
				return nil, err
			}
			f.assume("the handlers take as long as the reference's; an event of the sample cannot be projected: position %d, %s", e.Position, e.Type)
			return found, nil
		}
		if took := time.Since(began).Seconds() / n; n >= leastProbed && (f.apply == 0 || took < f.apply) {
			f.apply = took
		}
	}
	for _, w := range memory.Weights() {
		found[w.Table] = sampled{float64(w.Rows) / n, float64(w.Bytes) / n, true}
	}
	return found, nil
}

// someAggregates reads the events of a run of aggregates that holds about sampleEvents.
func (f *forecast) someAggregates(ctx context.Context, tx pgx.Tx, set *projections.Set) (events []*projections.Raw, err error) {
	parts, err := f.source.Split(ctx, tx, sampleEvents)
	if err != nil {
		return nil, err
	}
	part := parts[len(parts)/2]
	sel := eventstore.Selection{Range: part.Range, Types: set.Types(), AllAbove: math.MaxInt64}
	for e, err := range f.source.Events(ctx, tx, sel) {
		if err != nil {
			return nil, err
		}
		if len(events) == 2*sampleEvents { // an aggregate with very many
			break
		}
		raw := e.Clone()
		events = append(events, &raw)
	}
	return events, nil
}
