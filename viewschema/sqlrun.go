package viewschema

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// runFile sends a rendered file to PostgreSQL as it is, in tx, with the view schema first on the search path. If the file
// ends the transaction in a way that check did not see, the error says so; what it committed then is there to stay, which
// is why check exists.
func (s *Schema) runFile(ctx context.Context, tx pgx.Tx, f sqlFile, suffix string) error {
	_, err := tx.Exec(ctx, "select set_config('search_path', pg_catalog.concat_ws(', ', $1::text, nullif(current_setting('search_path'), '')), true)",
		pgx.Identifier{s.def.Schema}.Sanitize())
	if err != nil {
		return fmt.Errorf("setting the search path for %s: %w", f.name, err)
	}
	conn := tx.Conn().PgConn()
	text := f.render(suffix)
	if _, err := conn.Exec(ctx, text).ReadAll(); err != nil {
		return fileError(f.name, text, err)
	}
	if conn.TxStatus() != 'T' {
		return fmt.Errorf("%w: %s ended the transaction that it runs in", ErrDefinition, f.name)
	}
	return nil
}

// fileError turns an error at a position of the text into file:line with a caret under the place. The server counts
// characters, from 1, over the whole text.
func fileError(file, text string, err error) error {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", file, err)
	}
	hint := ""
	if e.Hint != "" {
		hint = "\nhint: " + e.Hint
	}
	if e.Position == 0 {
		return fmt.Errorf("%s: %w%s", file, err, hint)
	}
	offset := 0
	for range e.Position - 1 {
		_, size := utf8.DecodeRuneInString(text[offset:])
		offset += size
	}
	start := strings.LastIndex(text[:offset], "\n") + 1
	line := 1 + strings.Count(text[:offset], "\n")
	source, _, _ := strings.Cut(text[start:], "\n")
	indent := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, text[start:offset])
	return fmt.Errorf("%s:%d: %w\n    %s\n    %s^%s", file, line, err, source, indent, hint)
}
