package pg

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// FileError says where in a file the server found err: file:line:column, and the line with a caret under the place. Position
// counts characters of the text from 1, as the server does; 0 if it named none.
func FileError(file, text string, position int, err error) error {
	hint := ""
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Hint != "" {
		hint = "\nhint: " + e.Hint
	}
	if position == 0 {
		return fmt.Errorf("%s: %w%s", file, err, hint)
	}
	offset := 0
	for range position - 1 {
		_, size := utf8.DecodeRuneInString(text[offset:])
		offset += size
	}
	start := strings.LastIndex(text[:offset], "\n") + 1
	line, column := 1+strings.Count(text[:offset], "\n"), 1+utf8.RuneCountInString(text[start:offset])
	source, _, _ := strings.Cut(text[start:], "\n")
	indent := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, text[start:offset])
	return fmt.Errorf("%s:%d:%d: %w\n    %s\n    %s^%s", file, line, column, err, source, indent, hint)
}

// Position returns where in the statement the server found the error, in characters from 1; 0 if it does not say.
func Position(err error) int {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return int(e.Position)
	}
	return 0
}
