package viewschema

import (
	"encoding/json"
	"io/fs"
	"maps"
	"slices"
)

// Content returns all that the empty view tables and the bookkeeping of d depend on, in a form for a hash: SQL files,
// projectors with their tables and revisions, versions, the mapping, and the bookkeeping of this Projector. An error wraps
// ErrDefinition.
func (d Definition) Content() ([]byte, error) {
	c, err := d.check()
	if err != nil {
		return nil, err
	}
	type entry struct {
		Name  string
		Parts any
	}
	content := []entry{{"schema", c.Schema}, {"source", c.Source}}
	for _, p := range c.Projectors {
		content = append(content, entry{"projector " + p.Name, []any{p.Revision, p.Order, tablesOf(p)}})
	}
	for _, version := range slices.Sorted(maps.Keys(c.Versions)) {
		for _, ch := range c.Versions[version] {
			content = append(content, entry{"version", []any{version, ch.Kind(), ch.Names()}})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		content = append(content, entry{"file " + name, c.files[name].text})
	}
	names, err := fs.Glob(bookkeeping, "bookkeeping/*.sql")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(bookkeeping, name)
		if err != nil {
			return nil, err
		}
		content = append(content, entry{name, string(text)})
	}
	return json.Marshal(content)
}
