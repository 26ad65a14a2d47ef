package viewschema

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/viewschema/projector/internal/pg"
)

// volume is a file system that the server of the view tables writes to.
type volume struct {
	name   string // a folder of it, or what Options.FreeDiskQuery calls it
	free   int64  // bytes that the server may still write
	tables bool   // new tables come here
	device uint64
}

// errUnknownSpace is returned with the reason why it cannot be known how much is free.
var errUnknownSpace = errors.New("how much disk the server has left cannot be known")

// measureWithin bounds how long it may take to find out how much is free: a full disk does not wait.
const measureWithin = 30 * time.Second

// volumes tells how much is free of what the server of the view tables writes to: its data, its WAL, and the tablespaces of view
// tables and temporary files. PostgreSQL does not tell. So either Options.FreeDiskQuery does, or this is the server's host, whose file
// systems do.
func (s *Schema) volumes(ctx context.Context) (list []volume, err error) {
	within, cancel := context.WithTimeout(ctx, measureWithin)
	defer cancel()
	if s.opts.FreeDiskQuery != "" {
		list, err = s.queriedVolumes(within)
	} else {
		list, err = s.localVolumes(within)
	}
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: it takes longer than %s: %w", errUnknownSpace, measureWithin, err)
	}
	return list, err
}

// queriedVolumes has one by the name of each row.
func (s *Schema) queriedVolumes(ctx context.Context) ([]volume, error) {
	query := strings.TrimRight(s.opts.FreeDiskQuery, "; \t\r\n")
	list, err := pg.Collect(ctx, s.db, func(row pgx.CollectableRow) (v volume, err error) {
		var free *int64
		if err = row.Scan(&v.name, &free); err == nil && free == nil {
			return v, fmt.Errorf("%w: --free-disk-query yields null for volume %s", errUnknownSpace, v.name)
		}
		if err == nil {
			v.free = *free
		}
		return v, err
	}, "select coalesce(volume::text, 'without a name'), free::numeric::bigint from (\n"+query+"\n) volumes (volume, free)")
	if said, ok := errors.AsType[*pgconn.PgError](err); ok && !pg.IsConnectionLost(err) && !pg.IsDiskFull(err) {
		return nil, fmt.Errorf("%w: --free-disk-query, which has to yield the name of a volume and the bytes that are free there: %w", errUnknownSpace, said)
	}
	if err == nil && len(list) == 0 {
		return nil, fmt.Errorf("%w: --free-disk-query yields no row", errUnknownSpace)
	}
	if len(list) == 1 {
		list[0].tables = true
	}
	return list, err
}

// localVolumes asks the file systems of this host, if it is the server's.
func (s *Schema) localVolumes(ctx context.Context) (list []volume, err error) {
	err = pg.InTx(ctx, s.db, pg.PointList, func(tx pgx.Tx) error {
		data, err := dataDirectory(ctx, tx)
		if err != nil {
			return err
		}
		if list, err = s.tablespaces(ctx, tx); err != nil {
			return err
		}
		list = append(list, volume{name: "."}, volume{name: "pg_wal"})
		for i := range list {
			v := &list[i]
			folder := filepath.Join(data, v.name)
			if v.device, v.free, err = statfs(folder); err != nil {
				return fmt.Errorf("%w: %w", errUnknownSpace, err)
			}
			if v.name, err = filepath.EvalSymlinks(folder); err != nil {
				return fmt.Errorf("%w: %w", errUnknownSpace, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return distinct(list), nil
}

// dataDirectory returns the server's, if this is its host, and not another one with the same folders, such as a standby's: a snapshot that
// is exported is a file in the data directory until its transaction ends, under a name that no other server has at this moment.
func dataDirectory(ctx context.Context, tx pgx.Tx) (data string, err error) {
	var snapshot, role string
	err = tx.QueryRow(ctx, `
		select pg_export_snapshot(), coalesce((select setting from pg_catalog.pg_settings where name = 'data_directory'), ''), quote_ident(current_user)`).
		Scan(&snapshot, &data, &role)
	switch {
	case err != nil:
		return "", err
	case data == "":
		return "", fmt.Errorf("%w: our role %[2]s may not see where the data directory is; type: grant pg_read_all_settings to %[2]s; or say how to find out: --free-disk-query",
			errUnknownSpace, role)
	}
	if _, err := os.Stat(filepath.Join(data, "pg_snapshots", snapshot)); err != nil {
		return "", fmt.Errorf("%w: this is not the server's host, or we may not look into the data directory (%w); run the command there as the server's user, "+
			"or say how to find out: --free-disk-query", errUnknownSpace, err)
	}
	return data, nil
}

// tablespaces lists, by their places in the data directory, those of the view tables, of new ones, and of temporary files.
func (s *Schema) tablespaces(ctx context.Context, q pg.Querier) ([]volume, error) {
	return pg.Collect(ctx, q, func(row pgx.CollectableRow) (v volume, err error) {
		err = row.Scan(&v.name, &v.tables)
		return v, err
	}, `
		with own as (
			select coalesce(nullif(current_setting('default_tablespace'), ''), t.spcname) as name, t.spcname as of_database
			from pg_catalog.pg_database d join pg_catalog.pg_tablespace t on t.oid = d.dattablespace
			where d.datname = current_database()
		)
		select case t.spcname when 'pg_default' then '.' else 'pg_tblspc/' || t.oid end, t.spcname = own.name
		from own, pg_catalog.pg_tablespace t
		where t.spcname in (own.name, own.of_database)
		   or t.spcname = any (regexp_split_to_array(replace(current_setting('temp_tablespaces'), '"', ''), '\s*,\s*'))
		   or t.oid in (
				select c.reltablespace
				from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
				where n.nspname = $1)
		order by 2 desc, 1`, s.def.Schema)
}

// distinct leaves one folder of each file system, the first.
func distinct(list []volume) (kept []volume) {
	for _, v := range list {
		if !slices.ContainsFunc(kept, func(k volume) bool { return k.device == v.device }) {
			kept = append(kept, v)
		}
	}
	return kept
}

// checkSpace returns ErrSpace if less than the least is free on a volume, and ErrRefused if that cannot be known.
func (s *Schema) checkSpace(ctx context.Context, least int64) ([]volume, error) {
	list, err := s.volumes(ctx)
	const next = "what was committed stays; make room and run the command again, or run it with a smaller --min-free-disk"
	switch {
	case pg.IsDiskFull(err):
		return nil, fmt.Errorf("%w: %w; %s", ErrSpace, err, next)
	case errors.Is(err, errUnknownSpace):
		return nil, fmt.Errorf("%w: --min-free-disk is %s, and %w; or go without, by --min-free-disk 0", ErrRefused, pg.Size(least), err)
	case err != nil:
		return nil, fmt.Errorf("looking how much disk is free: %w", err)
	}
	for _, v := range list {
		if v.free < least {
			return nil, fmt.Errorf("%w: %s are free on the volume of %s, and --min-free-disk is %s; %s", ErrSpace, pg.Size(v.free), v.name, pg.Size(least), next)
		}
	}
	return list, nil
}

// keepFree returns the errors of checkSpace after which nothing more may be written. That a server could not be asked just now is no
// reason to stop.
func (s *Schema) keepFree(ctx context.Context, least int64) error {
	if least == 0 {
		return nil
	}
	_, err := s.checkSpace(ctx, least)
	if errors.Is(err, ErrSpace) || errors.Is(err, ErrRefused) {
		return err
	}
	if err != nil && ctx.Err() == nil {
		s.opts.Log.Warn().Err(err).Msg("cannot find out how much disk is free")
	}
	return nil
}

// wantedFree is what the options want to stay free.
func (s *Schema) wantedFree() int64 {
	var wanted Throttle
	if s.opts.Throttle != nil {
		s.opts.Throttle(&wanted)
	}
	return wanted.MinFreeDisk
}

// whileRoom runs work for as long as there is what the options want to stay free.
func (s *Schema) whileRoom(ctx context.Context, work func(ctx context.Context) error) error {
	check := func(ctx context.Context) error { return s.keepFree(ctx, s.wantedFree()) }
	if err := check(ctx); err != nil {
		return err
	}
	return beside(ctx, check, work)
}

// checkRoom looks, before a migration begins, whether what the options want to stay free is free, and warns if the new tables will not
// leave as much.
func (s *Schema) checkRoom(ctx context.Context, plan *Plan) error {
	least := s.wantedFree()
	if least == 0 {
		return nil
	}
	list, err := s.checkSpace(ctx, least)
	if err != nil {
		return err
	}
	needed, err := s.needs(ctx, plan)
	if err != nil {
		return err
	}
	for _, v := range list {
		if v.tables && v.free-needed < least {
			s.opts.Log.Warn().Str("volume", v.name).Str("free", pg.Size(v.free)).Str("needed", pg.Size(needed)).Str("min_free_disk", pg.Size(least)).
				Msg("if the new tables take as much as the live ones, the migration will stop for want of space")
		}
	}
	return nil
}

// needs is what the new tables and their indexes will take: as much as the live ones.
func (s *Schema) needs(ctx context.Context, plan *Plan) (bytes int64, err error) {
	err = s.db.QueryRow(ctx, `
		select coalesce(sum(`+pg.TableSize("c.oid")+`), 0)::bigint
		from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = any ($2)`, s.def.Schema, names(plan.replayed())).Scan(&bytes)
	if err != nil {
		return 0, fmt.Errorf("looking how much the live tables take: %w", err)
	}
	return bytes, nil
}

// examineSpace tells what is free, and what the new tables need: beside what they take, at least as much WAL, of which checkpoints free
// what no standby and no slot needs.
func (s *Schema) examineSpace(ctx context.Context, plan *Plan) (found []Finding, err error) {
	needed, err := s.needs(ctx, plan)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("the new tables need about %s (as much as the live ones take), and at least as much WAL", pg.Size(needed))
	list, err := s.volumes(ctx)
	switch {
	case errors.Is(err, errUnknownSpace) && needed == 0:
		return []Finding{{About: "space", Severity: SeverityFit, Text: "nothing is in the way"}}, nil
	case errors.Is(err, errUnknownSpace):
		return []Finding{{About: "space", Severity: SeverityNote, Text: text + "; " + err.Error(), Remedy: "look at the file systems of the server, and how full they are"}}, nil
	case err != nil:
		return nil, fmt.Errorf("looking how much disk is free: %w", err)
	}
	for _, v := range list {
		f := Finding{About: "space", Severity: SeverityFit, Text: fmt.Sprintf("%s are free on the volume of %s", pg.Size(v.free), v.name)}
		if v.tables && needed > 0 {
			f.Text += "; " + text
			if v.free < needed {
				f.Severity, f.Remedy = SeverityMend, "make room there, or set default_tablespace for our role to one with room"
			}
		}
		found = append(found, f)
	}
	return found, nil
}
