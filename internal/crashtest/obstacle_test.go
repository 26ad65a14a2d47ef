package crashtest

import (
	"io/fs"
	"testing/fstest"

	"github.com/viewschema/projector/sql/views"
	"github.com/viewschema/projector/viewschema"
)

// withObstacle is version 2 with functions of the database in the way: obstacle() at each row of accounts, and
// slow() in the batch that makes its indexes. The test decides what they do, and takes them away again without a change
// of the definition.
func withObstacle() viewschema.Definition {
	d := version2()
	files := fstest.MapFS{}
	names, err := fs.Glob(views.FS, "*.sql")
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(views.FS, name)
		if err != nil {
			panic(err) // they are embedded
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	add := func(name, text string) { files[name].Data = append(files[name].Data, text...) }
	add("accounts.sql", "alter table accounts%SUFFIX% add constraint accounts%SUFFIX%_obstacle check (public.obstacle());\n")
	add("accounts.indexes.sql", "set local statement_timeout = '50ms';\nselect public.slow();\nset local statement_timeout = 0;\n")
	d.Views = files
	return d
}
