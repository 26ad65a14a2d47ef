package viewschema

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// runFile sends a rendered file to PostgreSQL as it is, in tx, with the view schema first on the search path. If the file
// ends the transaction in a way that check did not see, the error says so; what it committed then is there to stay, which
// is why check exists.
func (s *Schema) runFile(ctx context.Context, tx pgx.Tx, f sqlFile, suffix string) error {
	path := "select set_config('search_path', pg_catalog.concat_ws(', ', " + pg.Literal(pgx.Identifier{s.def.Schema}.Sanitize()) +
		", nullif(current_setting('search_path'), '')), true);"
	conn := tx.Conn().PgConn()
	text := f.render(suffix)
	if _, err := conn.Exec(ctx, path+text).ReadAll(); err != nil {
		return pg.FileError(f.name, text, max(0, pg.Position(err)-utf8.RuneCountInString(path)), err)
	}
	if conn.TxStatus() != 'T' {
		return fmt.Errorf("%w: %s ended the transaction that it runs in", ErrDefinition, f.name)
	}
	return nil
}
