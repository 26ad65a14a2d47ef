package viewschema

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/projections"
)

// ReplayChanged makes the tables of those projectors anew, from their SQL files, for which anything has changed since it last
// did: files, queries, revision, event types, mapping, or the code of the handlers, which code stands for. It is for development,
// where one tries things without a version for each. The first time, it takes all for changed. Only bounds it to some
// projectors, as in Part. Result.Nothing says that nothing has changed, Result.Projectors what was replayed.
//
// It is one transaction that holds off readers and writers. What hangs on a table is made anew, as in a cutover, or ErrRefused.
func (s *Schema) ReplayChanged(ctx context.Context, code string, only ...string) (Result, error) {
	ps, err := s.def.named(only)
	if err != nil {
		return Result{}, err
	}
	return s.live(ctx, func(ctx context.Context, source *eventstore.Reader, result *Result) error {
		fp, err := s.fingerprint(ctx, s.db)
		if err != nil {
			return err
		}
		now := map[string]string{} // by projector, what its tables are filled by
		for _, p := range ps {
			now[p.Name] = fp.of(p, code)
		}
		before, err := s.filledBy(ctx)
		if err != nil {
			return err
		}
		ps = slices.DeleteFunc(slices.Clone(ps), func(p *projections.Projector) bool { return before[p.Name] == now[p.Name] })
		if result.Nothing = len(ps) == 0; result.Nothing {
			return nil
		}
		for _, p := range ps {
			result.Projectors = append(result.Projectors, p.Name)
		}
		var all []belonging
		err = s.inBoth(ctx, pg.PointReplay, func(tx, events pgx.Tx) error {
			if err := s.holdLive(ctx, tx, events, source); err != nil {
				return err
			}
			if all, err = s.remake(ctx, tx, events, source, ps, result); err != nil {
				return err
			}
			for _, p := range ps {
				_, err := tx.Exec(ctx, s.sql(`
					update %SCHEMA%.projector_migrations
					set fingerprint = fingerprint || jsonb_build_object($1::text, $2::text)
					where state = 'active'`), filledPart+p.Name, now[p.Name])
				if err != nil {
					return fmt.Errorf("recording what projector %s was replayed by: %w", p.Name, err)
				}
			}
			return nil
		})
		if err == nil {
			result.Remaining = s.complete(ctx, all)
		}
		return err
	})
}

// filledPart begins the parts of the active version's fingerprint that say by what ReplayChanged has filled the tables. The
// fingerprint of a migration that is active is not compared with anything else any more.
const filledPart = "filled by projector "

// filledBy returns these parts, by projector.
func (s *Schema) filledBy(ctx context.Context) (map[string]string, error) {
	var fp fingerprint
	err := s.db.QueryRow(ctx, s.sql("select fingerprint from %SCHEMA%.projector_migrations where state = 'active'")).Scan(&fp)
	if err != nil {
		return nil, fmt.Errorf("reading what the tables were filled by: %w", err)
	}
	filled := map[string]string{}
	for part, by := range fp {
		if name, ok := strings.CutPrefix(part, filledPart); ok {
			filled[name] = by
		}
	}
	return filled, nil
}

// of condenses what a projector's tables are filled by.
func (f fingerprint) of(p *projections.Projector, code string) string {
	parts := []string{f["projector "+p.Name], f["event mapping"], f["event table"]}
	if len(p.Handlers) > 0 {
		parts = append(parts, f["event types"], code)
	}
	for _, t := range p.Tables {
		name := t.TableName()
		parts = append(parts, f["query of "+name], f["file "+name+".sql"], f["file "+name+".indexes.sql"])
	}
	return fmt.Sprintf("sha256 %x", sha256.Sum256([]byte(strings.Join(parts, "\n"))))
}

// noVersion is the suffix of tables that are made anew, until they get their names: versions begin with 1.
const noVersion = 0

// remake makes the projectors' tables under other names, fills them, and puts them in the place of those that are live, as a
// cutover does. It returns what it has made anew.
func (s *Schema) remake(ctx context.Context, tx, events pgx.Tx, source *eventstore.Reader, ps []*projections.Projector, result *Result) ([]belonging, error) {
	plan := &Plan{From: s.Target(), To: noVersion}
	for _, p := range ps {
		for _, t := range p.Tables {
			plan.Tables = append(plan.Tables, s.def.replay(t, p.Name, plan))
		}
	}
	suffix := versionSuffix(noVersion)
	if err := s.createTables(ctx, tx, names(plan.Tables), suffix); err != nil {
		return nil, err
	}
	for _, t := range plan.Tables { // before the rows: some are looked up, or added to
		if f, ok := s.def.files[t.Table+".indexes.sql"]; ok {
			if err := s.runFile(ctx, tx, f, suffix); err != nil {
				return nil, err
			}
		}
	}
	if err := s.shield(ctx, tx, plan.Tables); err != nil {
		return nil, err
	}
	set := s.def.set.Only(ps...).In(s.def.Schema, suffix)
	if err := fits(ctx, tx, set, source); err != nil {
		return nil, err
	}
	if err := s.replayInto(ctx, tx, events, source, set, result); err != nil {
		return nil, err
	}
	if err := checkDeferred(ctx, tx); err != nil {
		return nil, err
	}
	all, err := s.checkCutover(ctx, tx, plan)
	if err != nil {
		return nil, err
	}
	for _, t := range plan.Tables {
		if err := s.replace(ctx, tx, t); err != nil {
			return nil, fmt.Errorf("table %s: %w", t.Table, err)
		}
	}
	if err := makeAnew(ctx, tx, all); err != nil {
		return nil, err
	}
	for _, t := range plan.Tables {
		if _, err := tx.Exec(ctx, "drop table if exists "+pg.Table(s.def.Schema, t.Archived)); err != nil {
			return nil, fmt.Errorf("dropping the former table %s: %w", t.Archived, err)
		}
	}
	return all, nil
}

// replace puts a table in the place of the live one, and records it, if the projector has got it just now.
func (s *Schema) replace(ctx context.Context, tx pgx.Tx, t TableChange) error {
	was, err := s.exists(ctx, tx, t.Table)
	if err != nil {
		return err
	}
	if was {
		if err := s.rename(ctx, tx, t.Table, t.Archived, nil); err != nil {
			return err
		}
	}
	if err := s.publish(ctx, tx, t, was); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, s.sql(`
		insert into %SCHEMA%.projector_tables (migration_id, table_name, change, projector)
		select id, $1, $2, $3 from %SCHEMA%.projector_migrations where state = 'active'
		on conflict do nothing`), t.Table, projector.KindReplay, t.Projector)
	return err
}
