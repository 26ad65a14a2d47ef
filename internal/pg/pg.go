package pg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is a connection, a pool or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Beginner starts transactions: a connection or a pool.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// cleanUp bounds what still has to be said to the server after the caller's context has ended.
const cleanUp = 5 * time.Second

// InTx runs fn in a transaction of its own, commits if fn returns nil and rolls back otherwise. The roll-back does not
// depend on ctx, so a canceled batch gives its locks back at once, and it never hides fn's error.
//
// A commit that fails may have happened all the same, if the connection was lost while it was under way.
func InTx(ctx context.Context, db Beginner, o pgx.TxOptions, fn func(tx pgx.Tx) error) (err error) {
	tx, err := db.BeginTx(ctx, o)
	if err != nil {
		return err
	}
	done := false
	defer func() { // also when fn panics
		if !done {
			c, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
			defer cancel()
			_ = tx.Rollback(c) // the first error is the one to report; the pool drops a broken connection
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	done = true
	return nil
}

// Table returns the quoted and qualified name of a relation.
func Table(schema, name string) string {
	return pgx.Identifier{schema, name}.Sanitize()
}

// SQLSTATEs that decide what happens next; see https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
	undefinedTable       = "42P01"
	undefinedSchema      = "3F000"
)

// IsRetryable says whether err asks for the same transaction again: a deadlock or a serialization failure.
func IsRetryable(err error) bool {
	return is(err, serializationFailure, deadlockDetected)
}

// IsLockTimeout says whether a lock could not be had within lock_timeout.
func IsLockTimeout(err error) bool { return is(err, lockNotAvailable) }

// IsUndefined says whether a table or its schema does not exist.
func IsUndefined(err error) bool { return is(err, undefinedTable, undefinedSchema) }

// UniqueViolation returns the table and the constraint that err violates.
func UniqueViolation(err error) (table, constraint string, ok bool) {
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == uniqueViolation {
		return e.TableName, e.ConstraintName, true
	}
	return "", "", false
}

func is(err error, codes ...string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && slices.Contains(codes, e.Code)
}
