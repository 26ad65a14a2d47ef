package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// walSetting is a way to set the server up.
type walSetting struct {
	what     string
	settings map[string]string
}

// walSettings are what the WAL of a rebuild depends on, beside what the server is started with.
func walSettings(compression string) []walSetting {
	return []walSetting{
		{"wal_level=minimal", map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}},
		{"wal_level=logical", map[string]string{"wal_level": "logical"}},
		{"max_wal_size=32MB", map[string]string{"max_wal_size": "32MB"}},
		{"wal_compression=" + compression, map[string]string{"wal_compression": compression}},
		{"wal_level=replica, max_wal_size=8GB", nil}, // the last: what is measured after it finds this server
	}
}

// walMeasurement is row 13: how much WAL it takes to do something with the events of a store.
type walMeasurement struct {
	*bench
	database    string
	compression string // the best that the server has
}

// writeAheadLog measures the WAL of a rebuild by the settings of the server, that of a catch-up, and how else the same rows could be loaded.
func (b *bench) writeAheadLog(ctx context.Context) error {
	from, err := b.store(ctx, b.events)
	if err != nil {
		return err
	}
	m := walMeasurement{bench: b, database: "wal"}
	if err := b.derive(ctx, m.database, from, ""); err != nil {
		return err
	}
	m.compression, err = query[string](ctx, b, "", "select case when 'lz4' = any (enumvals) then 'lz4' else 'on' end from pg_settings where name = 'wal_compression'")
	if err != nil {
		return err
	}
	for _, s := range walSettings(m.compression) {
		if err := b.restart(ctx, s.settings); err != nil {
			return err
		}
		err := m.written(ctx, "rebuild, "+s.what, b.events, func() (took time.Duration, err error) {
			o, err := b.rebuild(ctx, asBank, m.database, b.events)
			return o.Wall, err
		})
		if err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{m.noteSize, m.loads, m.catchUps} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := b.restart(ctx, nil); err != nil {
		return err
	}
	return b.drop(ctx, m.database)
}

// noteSize keeps what the tables of the rebuild take.
func (m walMeasurement) noteSize(ctx context.Context) error {
	for _, what := range []string{"table", "indexes"} {
		var bytes int64
		for _, t := range viewTables {
			n, err := query[int64](ctx, m.bench, m.database, "select pg_"+what+"_size('view_schema."+t.name+suffix+"')")
			if err != nil {
				return err
			}
			bytes += n
		}
		m.report.Notes = append(m.report.Notes, fmt.Sprintf("row 13: pg_%s_size of the view tables is %.0f B per event", what, float64(bytes)/float64(m.events)))
	}
	return nil
}

// loads measures ways to load the rows of a rebuild without reading events.
func (m walMeasurement) loads(ctx context.Context) error {
	f, err := m.newFloor(ctx, m.database)
	if err != nil {
		return err
	}
	unlogged, logged := f.alter("set unlogged"), f.alter("set logged")
	for _, load := range []struct {
		what        string
		compression string
		phases      []phase
	}{
		{"load: copy, then make indexes, as a rebuild does", "off", []phase{f.write, f.index}},
		{"load: make indexes, then copy", "off", []phase{f.index, f.write}},
		{"load: copy unlogged, set logged, make indexes", "off", []phase{unlogged, f.write, logged, f.index}},
		{"load: the same with wal_compression=" + m.compression, m.compression, []phase{unlogged, f.write, logged, f.index}},
	} {
		if err := f.prepare(ctx); err != nil {
			return err
		}
		if err := m.compress(ctx, load.compression); err != nil {
			return err
		}
		err := m.written(ctx, load.what, m.events, func() (took time.Duration, err error) {
			for _, p := range load.phases {
				t, err := f.run(ctx, p)
				if took += t; err != nil {
					return took, err
				}
			}
			return took, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// alter is a phase in which one session alters the tables.
func (f *floor) alter(how string) phase {
	return func(session int) (scripts []string, err error) {
		for _, t := range viewTables {
			if session == 0 {
				scripts = append(scripts, "alter table floor."+t.name+suffix+" "+how)
			}
		}
		return scripts, nil
	}
}

// catchUps measures those that begin right after a checkpoint: each page is written whole when it is changed for the first time then.
func (m walMeasurement) catchUps(ctx context.Context) error {
	if _, err := m.rebuild(ctx, asBank, m.database, m.events); err != nil {
		return err
	}
	few, many, history := m.events/1_000, m.events/100, sequel(m.events)
	for _, c := range []struct {
		compression string
		events      int
	}{{"off", few}, {"off", many}, {m.compression, many}} {
		if err := m.appendEvents(ctx, m.database, history, c.events); err != nil {
			return err
		}
		if err := m.compress(ctx, c.compression); err != nil {
			return err
		}
		what := fmt.Sprintf("catch-up of %s events after a checkpoint, wal_compression=%s", number(c.events), c.compression)
		err := m.written(ctx, what, c.events, func() (time.Duration, error) {
			o, err := m.migrate(ctx, asBank, m.server.URL(m.database), "catchup")
			return o.Wall, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (m walMeasurement) compress(ctx context.Context, compression string) error {
	return m.exec(ctx, "", "alter system set wal_compression = "+compression, "select pg_reload_conf()")
}

// written reports how many bytes of WAL the server writes while fn runs.
func (m walMeasurement) written(ctx context.Context, what string, events int, fn func() (time.Duration, error)) error {
	const position = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
	before, err := query[int64](ctx, m.bench, "", position)
	if err != nil {
		return err
	}
	took, err := fn()
	if err != nil {
		return err
	}
	after, err := query[int64](ctx, m.bench, "", position)
	if err != nil {
		return err
	}
	m.say("%s: %.0f MiB of WAL, %.2f s", what, mebibytes(after-before), took.Seconds())
	m.report.add(row{Row: 13, What: "WAL per event: " + what, Unit: "B", Measured: float64(after-before) / float64(events)})
	m.report.Notes = append(m.report.Notes, fmt.Sprintf("row 13, %s: takes %.2f s", what, took.Seconds()))
	return nil
}

// restart starts the server anew with these settings and no others but its own.
func (b *bench) restart(ctx context.Context, settings map[string]string) error {
	scripts := []string{"alter system reset all"}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		scripts = append(scripts, fmt.Sprintf("alter system set %s = '%s'", name, settings[name]))
	}
	b.say("starting PostgreSQL anew: %s", strings.Join(scripts, "; "))
	if err := b.exec(ctx, "", append(scripts, "checkpoint")...); err != nil {
		return err
	}
	return b.server.Crash(ctx)
}
