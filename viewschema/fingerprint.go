package viewschema

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// fingerprint says what a migration was begun with, by part: a half-built table is not to be finished by other code, from
// other SQL, or out of another database.
type fingerprint map[string]string

func (s *Schema) fingerprint(ctx context.Context, q pg.Querier) (fingerprint, error) {
	f := fingerprint{
		"event mapping": fmt.Sprintf("%+v", s.def.Source),
		"event types":   declaredTypes(s.def.set),
		"build":         build(),
	}
	for _, p := range s.def.Projectors {
		for _, t := range p.Tables {
			if q, ok := t.(*projections.SQLTable); ok {
				f["query of "+q.Name] = fmt.Sprintf("aggregate %s, sha256 %x", q.Aggregate, sha256.Sum256([]byte(q.Query)))
			}
		}
		f["projector "+p.Name] = fmt.Sprintf("revision %d, tables %s", p.Revision, strings.Join(tablesOf(p), ", "))
		if p.Order != projections.ByAggregate {
			f["projector "+p.Name] += fmt.Sprintf(", order %v", p.Order)
		}
	}
	for name, file := range s.def.files {
		f["file "+name] = fmt.Sprintf("sha256 %x", sha256.Sum256([]byte(file.text)))
	}
	// Another database may have other events than those that were replayed. Its timeline does not matter: a standby that is
	// promoted has the bookkeeping as of the same instant as the events.
	var err error
	if f["database"], err = identity(ctx, q); err != nil {
		return nil, err
	}
	if s.elsewhere() {
		// There the timeline does matter: what it leads to may lack events that were replayed before.
		var timeline string
		if f["event database"], err = identity(ctx, s.events); err == nil {
			err = s.events.QueryRow(ctx, timelineQuery, pg.Once).Scan(&timeline)
		}
		if err != nil {
			return nil, fmt.Errorf("identifying the database of the events: %w", err)
		}
		f["event database"] += ", timeline " + timeline
	}
	source, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	f["event table"] = source.Identity()
	return f, nil
}

// declaredTypes says what is done with which stored event.
func declaredTypes(set *projections.Set) string {
	declared := set.Declared()
	types := make([]string, len(declared))
	for i, d := range declared {
		types[i] = d.Name
		if d.Versions != "" {
			types[i] += " (" + d.Versions + ")"
		}
	}
	return strings.Join(types, ", ")
}

// identity names a database as no other can be named.
func identity(ctx context.Context, q pg.Querier) (name string, err error) {
	if err = q.QueryRow(ctx, identityQuery, pg.Once).Scan(&name); err != nil {
		return "", fmt.Errorf("identifying the database: %w", err)
	}
	return name, nil
}

const identityQuery = `
	select pg_catalog.format('system %s, oid %s', s.system_identifier, d.oid)
	from pg_catalog.pg_control_system() s, pg_catalog.pg_database d
	where d.datname = current_database()`

// timelineQuery asks for the timeline that the server writes, or, if it is a standby, follows.
const timelineQuery = `
	select case when pg_is_in_recovery() then (select timeline_id from pg_catalog.pg_control_checkpoint())::text
		else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int::text end`

// build names the code that handles the events, as far as the Go toolchain stamped it into the binary.
func build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	parts := []string{info.Main.Path, info.Main.Version}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" {
			parts = append(parts, s.Value)
		}
	}
	return strings.Join(parts, " ")
}

// diff says how now differs from f; it is empty if nothing does.
func (f fingerprint) diff(now fingerprint) string {
	var diffs []string
	all := maps.Clone(f)
	maps.Copy(all, now)
	for _, part := range slices.Sorted(maps.Keys(all)) {
		before, had := f[part]
		after, has := now[part]
		switch {
		case !had:
			diffs = append(diffs, part+" is new")
		case !has:
			diffs = append(diffs, part+" is gone")
		case before != after && (strings.HasPrefix(part, "file ") || strings.HasPrefix(part, "query ")):
			diffs = append(diffs, part+" has changed")
		case before != after:
			diffs = append(diffs, fmt.Sprintf("%s was %q and is %q", part, before, after))
		}
	}
	return strings.Join(diffs, "; ")
}

// ofRelease leaves out what may differ where one release is at work: its builds, and copies of the database.
func (f fingerprint) ofRelease() fingerprint {
	same := maps.Clone(f)
	delete(same, "build")
	delete(same, "database")
	maps.DeleteFunc(same, func(part, _ string) bool { return strings.HasPrefix(part, filledPart) })
	return same
}
