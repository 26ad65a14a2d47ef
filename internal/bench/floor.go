package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/internal/pg"
)

// floor is the least that PostgreSQL must do for what a rebuild of the bank makes: in as many sessions as there are workers,
// it reads all events in the order of their aggregates, stores finished rows, and builds the indexes. The phases come one
// after the other.
type floor struct {
	*bench
	database string
	halves   []string // conditions on an aggregate's id, one per session
}

// floorTimes are what the phases took.
type floorTimes struct {
	Read, Write, Index time.Duration
}

func (t floorTimes) total() time.Duration { return t.Read + t.Write + t.Index }

// viewTable is a view table of the bank, with the column that has its aggregate's id and the order of its rows.
type viewTable struct{ name, id, order string }

var viewTables = []viewTable{{"accounts", "id", "id"}, {"transactions", "account_id", "account_id, seq"}}

// suffix is that of the tables that the bank's migration builds in a new database.
var suffix = fmt.Sprintf("_%d", bank.Versions.Target())

// newFloor writes the rows that a rebuild has left to files of the server.
func (b *bench) newFloor(ctx context.Context, database string) (*floor, error) {
	f := &floor{bench: b, database: database}
	if err := f.halve(ctx); err != nil {
		return nil, fmt.Errorf("sharing the ids out: %w", err)
	}
	return f, f.eachSession(ctx, func(conn *pgx.Conn, session int) error {
		for _, t := range viewTables {
			sql := fmt.Sprintf("copy (select * from view_schema.%s where %s order by %s) to %s (format binary)",
				t.name+suffix, fmt.Sprintf(f.halves[session], t.id), t.order, f.file(t, session))
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

// halve finds ids that cut the events into equal parts.
func (f *floor) halve(ctx context.Context) error {
	bounds, err := query[[]string](ctx, f.bench, f.database, `
		select (percentile_disc(array(select i / $1::float8 from generate_series(1, $1 - 1) i)) within group (order by aggregate_id))::text[]
		from events`, f.workers)
	if err != nil {
		return err
	}
	for i := range f.workers {
		half := []string{"%[1]s is not null"}
		if i > 0 {
			half = append(half, "%[1]s >= '"+bounds[i-1]+"'")
		}
		if i < len(bounds) {
			half = append(half, "%[1]s < '"+bounds[i]+"'")
		}
		f.halves = append(f.halves, strings.Join(half, " and "))
	}
	return nil
}

// file is the quoted name of a file in the server's folder.
func (f *floor) file(t viewTable, session int) string {
	name := filepath.Join(f.server.Dir(), fmt.Sprintf("%s_%s_%d", f.database, t.name, session))
	return pg.Literal(name)
}

// measure runs the phases. It leaves the tables in the schema floor.
func (f *floor) measure(ctx context.Context) (times floorTimes, err error) {
	if err := f.prepare(ctx); err != nil {
		return times, err
	}
	for _, p := range []struct {
		took *time.Duration
		phase
	}{{&times.Read, f.read}, {&times.Write, f.write}, {&times.Index, f.index}} {
		if *p.took, err = f.run(ctx, p.phase); err != nil {
			return times, err
		}
	}
	return times, nil
}

// prepare makes the tables, empty.
func (f *floor) prepare(ctx context.Context) error {
	if err := f.reset(ctx, f.database); err != nil {
		return err
	}
	if err := f.exec(ctx, f.database, "create schema floor"); err != nil {
		return err
	}
	for _, t := range viewTables {
		sql, err := f.script(t, ".sql")
		if err != nil {
			return err
		}
		if err := f.exec(ctx, f.database, sql); err != nil {
			return err
		}
	}
	return nil
}

// phase returns the scripts of a session.
type phase func(session int) ([]string, error)

func (f *floor) run(ctx context.Context, p phase) (took time.Duration, err error) {
	began := time.Now()
	err = f.eachSession(ctx, func(conn *pgx.Conn, session int) error {
		scripts, err := p(session)
		for _, sql := range scripts {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return err
	})
	return time.Since(began), err
}

func (f *floor) read(session int) ([]string, error) {
	return []string{fmt.Sprintf(`
		copy (
			select position, aggregate_id, sequence_number, event_type, data, created_at
			from events
			where %s
			order by aggregate_id, sequence_number
		) to '/dev/null' (format binary)`, fmt.Sprintf(f.halves[session], "aggregate_id"))}, nil
}

func (f *floor) write(session int) (scripts []string, err error) {
	for _, t := range viewTables {
		scripts = append(scripts, fmt.Sprintf("copy floor.%s from %s (format binary)", t.name+suffix, f.file(t, session)))
	}
	return scripts, nil
}

// index shares the tables out.
func (f *floor) index(session int) (scripts []string, err error) {
	for i, t := range viewTables {
		if i%f.workers != session {
			continue
		}
		sql, err := f.script(t, ".indexes.sql")
		if err != nil {
			return nil, err
		}
		scripts = append(scripts, sql)
	}
	return scripts, nil
}

// script is one of the bank's SQL files, for the schema floor.
func (f *floor) script(t viewTable, extension string) (string, error) {
	text, err := fs.ReadFile(bank.Definition.Views, t.name+extension)
	return "set search_path = floor, public; " + strings.ReplaceAll(string(text), "%SUFFIX%", suffix), err
}

// rows counts the rows of the view tables in a schema.
func (f *floor) rows(ctx context.Context, schema string) (counts [2]int64, err error) {
	for i, t := range viewTables {
		if counts[i], err = query[int64](ctx, f.bench, f.database, "select count(*) from "+schema+"."+t.name+suffix); err != nil {
			break
		}
	}
	return counts, err
}

// eachSession runs fn side by side, in as many sessions as there are workers.
func (f *floor) eachSession(ctx context.Context, fn func(conn *pgx.Conn, session int) error) error {
	var all sync.WaitGroup
	errs := make([]error, f.workers)
	for i := range f.workers {
		all.Go(func() {
			errs[i] = f.with(ctx, f.database, func(conn *pgx.Conn) error { return fn(conn, i) })
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
