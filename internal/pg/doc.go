// Package pg holds what every package that talks to PostgreSQL needs and pgx does not have: transactions that end even
// when their context has, and the classes of errors that decide whether to try again.
package pg
