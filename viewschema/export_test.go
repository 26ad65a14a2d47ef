package viewschema

import (
	"context"
	"io/fs"
	"testing/fstest"
	"time"
)

// WithBookkeeping is a newer Projector's Schema, which has one file more.
func WithBookkeeping(s *Schema, name, sql string) (*Schema, error) {
	files := fstest.MapFS{"bookkeeping/" + name: {Data: []byte(sql)}}
	have, err := s.bookkeepingFiles()
	for _, file := range have {
		text, readErr := fs.ReadFile(s.files, "bookkeeping/"+file)
		if readErr != nil {
			return nil, readErr
		}
		files["bookkeeping/"+file] = &fstest.MapFile{Data: text}
	}
	newer := *s
	newer.files = files
	return &newer, err
}

// Reduce makes the plan of a definition without a database.
func Reduce(d Definition, from int) (*Plan, error) {
	c, err := d.check()
	if err != nil {
		return nil, err
	}
	return c.reduce(from)
}

// Examine is Doctor with transactions told of that are as old as that.
func (s *Schema) Examine(ctx context.Context, long time.Duration) ([]Finding, error) {
	return s.examine(ctx, long)
}

// InTheWay is Overview's, with transactions in the way that are as old as that.
func (s *Schema) InTheWay(ctx context.Context, long time.Duration) (*Transaction, error) {
	return s.inTheWay(ctx, long)
}
