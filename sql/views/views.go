// Package views holds the SQL files of the bank's view tables.
package views

import "embed"

// FS has <table>.sql, <table>.indexes.sql and <table>_<version>.sql.
//
//go:embed *.sql
var FS embed.FS
