package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// walSettings are what the WAL of a rebuild depends on, beside what the server is started with.
var walSettings = []struct {
	what     string
	settings map[string]string
}{
	{"wal_level=minimal", map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}},
	{"wal_level=logical", map[string]string{"wal_level": "logical"}},
	{"wal_level=replica, max_wal_size=64MB", map[string]string{"max_wal_size": "64MB"}},
	{"wal_level=replica, max_wal_size=64MB, wal_compression=on", map[string]string{"max_wal_size": "64MB", "wal_compression": "on"}},
	{"wal_level=replica, wal_compression=on", map[string]string{"wal_compression": "on"}},
	{"wal_level=replica", nil}, // the last: with it go the loads
}

// writeAheadLog measures the WAL that a rebuild writes by the settings of the server, and how else the same rows could be loaded.
func (b *bench) writeAheadLog(ctx context.Context) error {
	database, err := b.store(ctx, b.events)
	if err != nil {
		return err
	}
	for _, s := range walSettings {
		if err := b.restart(ctx, s.settings); err != nil {
			return err
		}
		var o outcome
		written, err := b.written(ctx, database, func() (err error) {
			o, err = b.rebuild(ctx, asBank, database, b.events)
			return err
		})
		if err != nil {
			return err
		}
		b.say("%s: %.0f MiB of WAL, %.2f s", s.what, mebibytes(written), o.Wall.Seconds())
		b.report.add(row{Row: 13, What: "WAL of a rebuild per event, " + s.what, Unit: "B", Measured: float64(written) / float64(b.events)})
		b.report.Notes = append(b.report.Notes, fmt.Sprintf("row 13, %s: the rebuild takes %.2f s", s.what, o.Wall.Seconds()))
	}
	if err := b.noteSize(ctx, database); err != nil {
		return err
	}
	return b.loads(ctx, database)
}

// noteSize keeps what the tables of the rebuild take.
func (b *bench) noteSize(ctx context.Context, database string) error {
	for _, part := range []string{"pg_table_size", "pg_indexes_size"} {
		var bytes int64
		for _, t := range viewTables {
			n, err := query[int64](ctx, b, database, "select "+part+"('view_schema."+t.name+suffix+"')")
			if err != nil {
				return err
			}
			bytes += n
		}
		b.report.Notes = append(b.report.Notes, fmt.Sprintf("row 13: %s of the view tables is %.0f B per event", part, float64(bytes)/float64(b.events)))
	}
	return nil
}

// loads measures ways to load the rows of a rebuild without reading events.
func (b *bench) loads(ctx context.Context, database string) error {
	f, err := b.newFloor(ctx, database)
	if err != nil {
		return err
	}
	alter := func(how string) func(int) ([]string, error) {
		return func(session int) (scripts []string, err error) {
			if session > 0 {
				return nil, nil
			}
			for _, t := range viewTables {
				scripts = append(scripts, "alter table floor."+t.name+suffix+" "+how)
			}
			return scripts, nil
		}
	}
	unlogged, logged := alter("set unlogged"), alter("set logged")
	for _, load := range []struct {
		what        string
		compression string
		phases      []phase
	}{
		{"copy, then make indexes, as a rebuild does", "off", []phase{f.write, f.index}},
		{"make indexes, then copy", "off", []phase{f.index, f.write}},
		{"copy unlogged, set logged, make indexes", "off", []phase{unlogged, f.write, logged, f.index}},
		{"the same with wal_compression=on", "on", []phase{unlogged, f.write, logged, f.index}},
	} {
		if err := f.prepare(ctx); err != nil {
			return err
		}
		if err := b.exec(ctx, "", "alter system set wal_compression = "+load.compression, "select pg_reload_conf()"); err != nil {
			return err
		}
		var took time.Duration
		written, err := b.written(ctx, database, func() error {
			for _, p := range load.phases {
				t, err := f.run(ctx, p)
				took += t
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		b.say("%s: %.0f MiB of WAL, %.2f s", load.what, mebibytes(written), took.Seconds())
		b.report.add(row{Row: 13, What: "WAL of a load per event: " + load.what, Unit: "B", Measured: float64(written) / float64(b.events)})
		b.report.Notes = append(b.report.Notes, fmt.Sprintf("row 13, %s: the load takes %.2f s", load.what, took.Seconds()))
	}
	return b.restart(ctx, nil)
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

// written returns how many bytes of WAL the server writes while fn runs.
func (b *bench) written(ctx context.Context, database string, fn func() error) (int64, error) {
	const position = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
	before, err := query[int64](ctx, b, database, position)
	if err != nil {
		return 0, err
	}
	if err := fn(); err != nil {
		return 0, err
	}
	after, err := query[int64](ctx, b, database, position)
	return after - before, err
}
