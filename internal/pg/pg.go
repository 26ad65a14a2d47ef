package pg

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
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

// Collect returns the rows of a query, an empty list if there are none.
func Collect[T any](ctx context.Context, q Querier, of pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, of)
}

// Once comes before the arguments of a statement that a session sends once, or rarely: it is not prepared, which takes a round trip of
// its own. Arguments go as text, by their Go types: a map has none. Results come as text, so none may be a time or an interval, which
// are written as the session's settings say.
const Once = pgx.QueryExecModeExec

// Table returns the quoted and qualified name of a relation.
func Table(schema, name string) string {
	return pgx.Identifier{schema, name}.Sanitize()
}

// Literal quotes a text for statements that take no parameters. It relies on standard_conforming_strings, which is on by default.
func Literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// Milliseconds is a time-out for PostgreSQL, to which 0 would mean none.
func Milliseconds(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// Pause waits, and returns the cause if ctx ends before.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Unbounded lifts, for a transaction, time-outs that are meant for an application's statements and transactions, and not for those that
// read a whole table. There is a transaction_timeout from PostgreSQL 17 on.
const Unbounded = "set_config('statement_timeout', '0', true), " +
	"case when current_setting('transaction_timeout', true) is not null then set_config('transaction_timeout', '0', true) end"

// Storable makes text that a column can hold of what may quote anything.
func Storable(text string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", `\0`), "\uFFFD")
}

// Condition names an error of the server and what it is about, without its message, which can quote values.
func Condition(e *pgconn.PgError) string {
	text := "PostgreSQL error " + e.Code
	if e.TableName != "" {
		text += ", table " + e.TableName
	}
	if e.ConstraintName != "" {
		text += ", constraint " + e.ConstraintName
	}
	return text
}

// SQLSTATEs that decide what happens next; see https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	uniqueViolation      = "23505"
	diskFull             = "53100"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
	undefinedTable       = "42P01"
	undefinedSchema      = "3F000"
	adminShutdown        = "57P01"
	crashShutdown        = "57P02"
	cannotConnectNow     = "57P03"
	divisionByZero       = "22012"
	idleInTransaction    = "25P03" // the server has ended a session of ours that was stopped, or got no processor, for too long
	transactionTimeout   = "25P04" // the same
	idleSession          = "57P05"
	queryCanceled        = "57014" // also statement_timeout
	insufficientRights   = "42501"
)

// IsRetryable says whether err asks for the same transaction again: a deadlock or a serialization failure.
func IsRetryable(err error) bool {
	return is(err, serializationFailure, deadlockDetected)
}

// IsRecoveryConflict says whether a standby has canceled a statement, or ended its session, because the replay of the primary's WAL
// could not wait for it any longer. It has the codes of IsRetryable, which otherwise come from other places than the one where a
// session is interrupted; the message is in the server's language.
func IsRecoveryConflict(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == serializationFailure || e.Code == deadlockDetected) && e.File == "postgres.c"
}

// IsDenied says whether our role has not the right to what it asked for.
func IsDenied(err error) bool { return is(err, insufficientRights) }

// IsConnectionLost says whether the connection broke, or cannot be made, or the server ended it: what was under way may be tried
// again on another one. That a commit was under way is not known to have failed. A time-out of the network is among that, and a
// deadline of ours is not.
func IsConnectionLost(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(e.Code, "08") || slices.Contains([]string{
			adminShutdown, crashShutdown, cannotConnectNow, idleInTransaction, transactionTimeout, idleSession,
		}, e.Code)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && (e.Op == "dial" || errors.Is(e, syscall.ETIMEDOUT)) {
		return true
	}
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.As(err, &network) && !network.Timeout()
}

// IsLockTimeout says whether a lock could not be had within lock_timeout.
func IsLockTimeout(err error) bool { return is(err, lockNotAvailable) }

// IsDiskFull says whether the server found no space for what it had to write.
func IsDiskFull(err error) bool { return is(err, diskFull) }

// IsUndefined says whether a table or its schema does not exist.
func IsUndefined(err error) bool { return is(err, undefinedTable, undefinedSchema) }

// IsStatementTimeout says whether a statement took longer than statement_timeout allows, or was canceled by somebody.
func IsStatementTimeout(err error) bool { return is(err, queryCanceled) }

// IsDivisionByZero says whether a statement divided by zero.
func IsDivisionByZero(err error) bool { return is(err, divisionByZero) }

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
