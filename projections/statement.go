package projections

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// statement is a statement with binary parameters.
type statement struct {
	sql     string
	params  [][]byte
	oids    []uint32
	formats []int16 // of the columns that it returns; nil: it returns none
	byKey   int     // so many rows of a table it is about, each of them by its key; 0: it is about others
}

// fewRows are so few that the planner finds them by their index without being told.
const fewRows = 50

// run runs the statement. Each row goes to row, until it says that there is no more to do.
func (s statement) run(ctx context.Context, conn *pgx.Conn, row func(values [][]byte) (more bool)) (pgconn.CommandTag, error) {
	if s.byKey > fewRows {
		return s.runByIndex(ctx, conn, row)
	}
	return drain(conn.PgConn().ExecParams(ctx, s.sql, s.params, s.oids, binaryFormat, s.formats), row)
}

func drain(result *pgconn.ResultReader, row func(values [][]byte) (more bool)) (pgconn.CommandTag, error) {
	for result.NextRow() && row(result.Values()) {
		continue
	}
	return result.Close()
}

// Around a statement by key. The setting is as before afterwards, since the transaction may be an application's.
var (
	pagesForNothing = []string{
		"select pg_catalog.set_config('projector.random_page_cost', pg_catalog.current_setting('random_page_cost'), true)",
		"set local random_page_cost = 0",
	}
	pagesAsBefore = "select pg_catalog.set_config('random_page_cost', pg_catalog.current_setting('projector.random_page_cost'), true)"
)

// runByIndex runs the statement in a way that its rows are found by their index, as far as that is less work than to read the whole
// table. Of a table of which a batch wants a few percent, the planner would read all, since random_page_cost is for pages that have to
// come from the disk. So would every batch of a catch-up; together they want most of the table, and after the first ones it is in memory.
func (s statement) runByIndex(ctx context.Context, conn *pgx.Conn, row func(values [][]byte) (more bool)) (tag pgconn.CommandTag, err error) {
	all := &pgconn.Batch{}
	for _, sql := range pagesForNothing {
		all.ExecParams(sql, nil, nil, nil, nil)
	}
	all.ExecParams(s.sql, s.params, s.oids, binaryFormat, s.formats)
	all.ExecParams(pagesAsBefore, nil, nil, nil, nil)
	results := conn.PgConn().ExecBatch(ctx, all)
	for i := 0; results.NextResult(); i++ {
		if i == len(pagesForNothing) {
			tag, _ = drain(results.ResultReader(), row) // results has its error
		} else {
			_, _ = results.ResultReader().Close()
		}
	}
	return tag, results.Close()
}
