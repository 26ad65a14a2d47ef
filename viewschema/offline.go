package viewschema

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
	"github.com/viewschema/projector/replay"
)

const (
	// lockTimeout bounds each wait for a lock in the cutover. While we wait for a table, everybody who comes after us
	// waits behind us, even readers: https://www.postgresql.org/docs/current/explicit-locking.html.
	lockTimeout = "80ms"
	// shortTail is the number of events that the cutover applies while it holds off writers: some tens of milliseconds.
	shortTail = 1_000
	// mostPasses bounds the catch-ups before the cutover, if the application appends faster than we apply.
	mostPasses = 10
)

// MigrateOffline is the cutover. It catches up until little is left, and then, in one transaction with writers held off,
// applies the last events, renames the tables, runs the in-place alters and records the version. Readers and writers wait
// for that transaction, and see the old tables before and the new ones after. Any failure leaves the old version live and
// the new one built.
//
// Locks are asked for with a short time-out and given back if one cannot be had, so that nobody queues behind the
// cutover for long; it is tried again for Options.LockWait.
//
// Errors: ErrState (not built), ErrLockWait, ErrRefused (something depends on a live table), and those of MigrateOnline.
func (s *Schema) MigrateOffline(ctx context.Context) (Result, error) {
	began := time.Now()
	current, err := s.CurrentVersion(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := s.checkDirection(current); err != nil {
		return Result{}, err
	}
	if current == s.Target() {
		return Result{From: current, To: current, State: replay.Active, Nothing: true}, nil
	}
	job, m, err := s.builtJob(ctx)
	if err != nil {
		return Result{}, err
	}
	plan, err := s.def.reduce(m.from)
	if err != nil {
		return Result{}, err
	}
	if err := s.checkCutover(ctx, s.db, plan); err != nil {
		return Result{}, err
	}
	result := Result{From: m.from, To: m.to, State: replay.Active}
	if len(plan.Projectors) > 0 {
		if err := s.shorten(ctx, job, &result); err != nil {
			return Result{}, err
		}
	}
	if err := s.cutover(ctx, job, m, plan, &result); err != nil {
		return Result{}, err
	}
	s.db.Reset() // its connections know the columns of tables that have other names now
	result.Elapsed = time.Since(began)
	return result, nil
}

// shorten catches up until the tail is short.
func (s *Schema) shorten(ctx context.Context, job *replay.Job, result *Result) error {
	for range mostPasses {
		pass, err := job.CatchUp(ctx, eventstore.Wait{Limit: catchUpWait})
		if err != nil {
			return err
		}
		result.Events += pass.Events
		result.Rows += pass.Rows
		if pass.Events <= shortTail {
			return nil
		}
	}
	return fmt.Errorf("%w: after %d catch-ups there are still more than %d new events each time; hold back the writers, or cut over at a quieter time",
		ErrRefused, mostPasses, shortTail)
}

// cutover tries the transaction until it succeeds, fails for another reason than a lock, or LockWait is over.
func (s *Schema) cutover(ctx context.Context, job *replay.Job, m *migration, plan *Plan, result *Result) error {
	deadline := time.Now().Add(s.opts.LockWait)
	var told time.Time
	for try := 1; ; try++ {
		var asked time.Time
		var pass replay.Pass
		err := pg.InTx(ctx, s.db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
			asked, pass, err = s.swap(ctx, tx, job, m, plan)
			return err
		})
		if err == nil {
			result.HeldOff = time.Since(asked)
			result.Events += pass.Events
			result.Rows += pass.Rows
			return nil
		}
		if !pg.IsLockTimeout(err) && !pg.IsRetryable(err) {
			return fmt.Errorf("cutting over to version %d: %w", m.to, err)
		}
		over := time.Now().After(deadline)
		if over || time.Since(told) > tellEvery {
			told = time.Now()
			blockers, lookErr := s.blockers(ctx, job, m, plan)
			if over {
				return errors.Join(fmt.Errorf("%w within %s: %w; in the way: %s", ErrLockWait, s.opts.LockWait, err, blockers), lookErr)
			}
			s.opts.Log.Info().Err(err).Int("try", try).Str("in_the_way", blockers).Msg("gave the locks back; trying again")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(rand.Int64N(int64(min(try, 10)) * int64(100*time.Millisecond)))):
		}
	}
}

// tellEvery is how often a cutover that waits for locks says so.
const tellEvery = 5 * time.Second

// blockers names who keeps the cutover from its locks at this moment: on the events, whoever keeps writers out or writes;
// on the guard and the live tables, everybody. Autovacuum of the event table is among them; it is waited out.
func (s *Schema) blockers(ctx context.Context, job *replay.Job, m *migration, plan *Plan) (string, error) {
	events, err := job.Source.Blockers(ctx, s.db)
	if err != nil {
		return "", err
	}
	relations := []string{pg.Table(s.def.Schema, guardName(m.from))}
	for _, t := range plan.Tables {
		relations = append(relations, pg.Table(s.def.Schema, t.Table))
	}
	var oids []uint32
	err = s.db.QueryRow(ctx, "select array(select to_regclass(r)::oid from unnest($1::text[]) r where to_regclass(r) is not null)", relations).Scan(&oids)
	if err != nil {
		return "", fmt.Errorf("looking up the live tables: %w", err)
	}
	holders, err := pg.Holders(ctx, s.db, oids)
	if err != nil {
		return "", err
	}
	return cmp.Or(strings.Join(slices.DeleteFunc([]string{events, pg.Describe(holders)}, func(s string) bool { return s == "" }), "; "),
		"nobody any more"), nil
}

// swap is the cutover's transaction. Its locks are taken in the order in which a guarded application takes them, so that
// they cannot deadlock: the guard, the events, the view tables. It returns when it asked for the writers' lock.
func (s *Schema) swap(ctx context.Context, tx pgx.Tx, job *replay.Job, m *migration, plan *Plan) (asked time.Time, pass replay.Pass, err error) {
	if _, err := tx.Exec(ctx, "select set_config('lock_timeout', $1, true)", lockTimeout); err != nil {
		return asked, pass, err
	}
	cut, err := job.Own(ctx, tx, replay.Built)
	if err != nil {
		return asked, pass, err
	}
	asked = time.Now()
	if err := s.closeGuard(ctx, tx, m.from); err != nil {
		return asked, pass, err
	}
	if err := job.Source.HoldWriters(ctx, tx); err != nil {
		return asked, pass, err
	}
	if len(plan.Projectors) > 0 {
		if pass, err = job.Finish(ctx, tx, cut); err != nil {
			return asked, pass, err
		}
	}
	if err := s.checkCutover(ctx, tx, plan); err != nil {
		return asked, pass, err
	}
	if err := s.lockLive(ctx, tx, plan); err != nil {
		return asked, pass, err
	}
	for _, t := range plan.Tables {
		if err := s.change(ctx, tx, m, t); err != nil {
			return asked, pass, fmt.Errorf("table %s: %w", t.Table, err)
		}
	}
	return asked, pass, s.activate(ctx, tx, m)
}

// lockLive locks the live tables in one order for all. From here on readers wait.
func (s *Schema) lockLive(ctx context.Context, tx pgx.Tx, plan *Plan) error {
	for _, t := range plan.Tables {
		exists, err := s.exists(ctx, tx, t.Table)
		if err != nil || !exists {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := tx.Exec(ctx, "lock table "+pg.Table(s.def.Schema, t.Table)+" in access exclusive mode"); err != nil {
			return fmt.Errorf("locking table %s: %w", t.Table, err)
		}
	}
	return nil
}

// change does to one table what the plan says.
func (s *Schema) change(ctx context.Context, tx pgx.Tx, m *migration, t TableChange) error {
	switch t.Kind {
	case projector.KindAlter:
		for _, f := range t.alters {
			if err := s.runFile(ctx, tx, f, ""); err != nil {
				return err
			}
		}
		return nil
	case projector.KindReplay, projector.KindDrop:
		archived, err := s.archive(ctx, tx, m, t)
		if err != nil {
			return err
		}
		if t.Kind == projector.KindReplay {
			if err := s.publish(ctx, tx, t, archived); err != nil {
				return err
			}
		}
	}
	return nil
}

// archive renames the live table out of the way, if there is one, and records its name.
func (s *Schema) archive(ctx context.Context, tx pgx.Tx, m *migration, t TableChange) (archived bool, err error) {
	exists, err := s.exists(ctx, tx, t.Table)
	if err != nil || !exists {
		return false, err
	}
	if err := s.rename(ctx, tx, t.Table, t.Archived, nil); err != nil {
		return false, err
	}
	_, err = tx.Exec(ctx, s.sql("update %SCHEMA%.projector_tables set archived_name = $3 where migration_id = $1 and table_name = $2"),
		m.Migration, t.Table, t.Archived)
	return true, err
}

// publish gives the new table the plain name, and the owner and rights of the table that had it.
func (s *Schema) publish(ctx context.Context, tx pgx.Tx, t TableChange, archived bool) error {
	plain := s.def.files[t.Table+".sql"].names(t.Built[len(t.Table):])
	if f, ok := s.def.files[t.Table+".indexes.sql"]; ok {
		maps.Copy(plain, f.names(t.Built[len(t.Table):]))
	}
	if err := s.rename(ctx, tx, t.Built, t.Table, plain); err != nil {
		return err
	}
	if !archived {
		return nil
	}
	return s.carryRights(ctx, tx, t.Archived, t.Table)
}

// activate records the version and opens its guard. The ledger stays: at this moment it tells for the old tables, too,
// which events they hold.
func (s *Schema) activate(ctx context.Context, tx pgx.Tx, m *migration) error {
	_, err := tx.Exec(ctx, s.sql("update %SCHEMA%.projector_migrations set state = 'archived' where state = 'active'"))
	if err != nil {
		return fmt.Errorf("archiving version %d: %w", m.from, err)
	}
	// now() is when the transaction began, which is when the cutover asked for its first lock.
	_, err = tx.Exec(ctx, s.sql(`
		update %SCHEMA%.projector_migrations
		set state = 'active', active_at = clock_timestamp(), held_off = clock_timestamp() - now()
		where id = $1`), m.Migration)
	if err != nil {
		return fmt.Errorf("recording version %d: %w", m.to, err)
	}
	return s.openGuard(ctx, tx, m.to)
}
