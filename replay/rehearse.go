package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Rehearse applies what the ledger lacks, as Finish does, runs fn, and rolls everything back. Nobody holds off writers: it is one
// transaction in one snapshot, so fn sees tables that hold exactly the events that it sees. Events in another database are not in
// the snapshot: they are all that there are when they are read.
//
// All other work for a migration waits until fn is done, and writers do not. After a lost connection fn runs again.
func (j *Job) Rehearse(ctx context.Context, fn func(tx pgx.Tx) error) error {
	err := j.retry(ctx, j.alone, pg.PointList, func(tx pgx.Tx) error {
		cut, err := j.Own(ctx, tx, Built)
		if err != nil {
			return err
		}
		if _, err := j.Finish(ctx, tx, cut); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		return errRehearsed
	})
	if errors.Is(err, errRehearsed) {
		return nil
	}
	return err
}

// errRehearsed ends a transaction of which nothing is to stay.
var errRehearsed = errors.New("rehearsed")

// alone is pg.InSnapshot with a snapshot that is taken when no work is under way, and none begins until the transaction ends. A
// snapshot of while a group is applied would lack what the group commits, so that the group's events would be recorded twice, which
// fails; and beside a catch-up that has much to do, each try would. Whoever works takes a lock on this table first, see enter; LOCK
// waits for it in turn, and neither it nor SET takes a snapshot: https://www.postgresql.org/docs/current/sql-lock.html.
func (l Ledger) alone(ctx context.Context, db pg.Beginner, point pg.Point, fn func(tx pgx.Tx) error) error {
	settings := ""
	if c, ok := db.(pg.Configured); ok { // with its beginning they would take the snapshot
		db, settings = c.DB, c.Settings
	}
	return pg.InSnapshot(ctx, db, point, func(tx pgx.Tx) error {
		// From PostgreSQL 17 on there is one more time-out, and to ask for it would take a snapshot.
		if savepoint, err := tx.Begin(ctx); err != nil {
			return err
		} else if _, err := savepoint.Exec(ctx, "set local transaction_timeout = 0"); err == nil {
			if err := savepoint.Commit(ctx); err != nil {
				return err
			}
		} else if err := savepoint.Rollback(ctx); err != nil {
			return err
		}
		for _, sql := range []string{
			"set local lock_timeout = 0",
			"set local statement_timeout = 0",
			"set local idle_in_transaction_session_timeout = " + pg.Milliseconds(stuck), // should we be gone when we get the lock
			"lock table %SCHEMA%.projector_migrations in exclusive mode",
		} {
			if _, err := tx.Exec(ctx, l.sql(sql)); err != nil {
				return fmt.Errorf("waiting for the work on the migration to pause: %w", err)
			}
		}
		if settings != "" {
			if _, err := tx.Exec(ctx, "select "+settings); err != nil {
				return fmt.Errorf("setting up the transaction: %w", err)
			}
		}
		return fn(tx)
	})
}
