package viewschema_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/examples/bank"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// Whatever the tables of a definition depend on is in its content, and makes another hash of it.
func TestContent(t *testing.T) {
	t.Parallel()
	changed := func(change func(p *projections.Projector)) viewschema.Definition {
		p := *bank.Accounts
		change(&p)
		d := bank.Definition
		d.Projectors = slices.Clone(d.Projectors)
		d.Projectors[slices.Index(d.Projectors, bank.Accounts)] = &p
		return d
	}
	text := func(d viewschema.Definition) string {
		t.Helper()
		content, err := d.Content()
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	base := text(bank.Definition)
	if text(changed(func(*projections.Projector) {})) != base {
		t.Error("two contents of one definition differ")
	}
	file, source, schema, versions := bank.Definition, bank.Definition, bank.Definition, bank.Definition
	file.Views = files(map[string]string{"accounts.indexes.sql": ""})
	source.Source = eventstore.Mapping{Relation: "messages"}
	schema.Schema = "views"
	versions.Versions = maps.Clone(versions.Versions)
	versions.Versions[versions.Versions.Target()+1] = []projector.Change{projector.Replay(bank.Accounts)}
	for what, d := range map[string]viewschema.Definition{
		"a SQL file": file, "the mapping": source, "the schema": schema, "the versions": versions,
		"a revision": changed(func(p *projections.Projector) { p.Revision++ }),
	} {
		if text(d) == base {
			t.Errorf("the content does not depend on %s", what)
		}
	}
	file.Views = nil
	if _, err := file.Content(); !errors.Is(err, viewschema.ErrDefinition) {
		t.Errorf("without SQL files: %v", err)
	}
}
