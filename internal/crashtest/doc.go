// Package crashtest kills what takes part in a migration: the command line, its connections and PostgreSQL. After each kill
// a migration goes on from where it was, and at the end every row is compared. It has tests only.
package crashtest
