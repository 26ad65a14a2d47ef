package viewschema

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/nearest"
	"github.com/viewschema/projector/projections"
)

// DefaultSchema is the PostgreSQL schema of the view tables if the definition names none.
const DefaultSchema = "view_schema"

// Definition is everything that an application says about its view schema.
type Definition struct {
	Source     eventstore.Mapping // where the events are; the zero Mapping is a table events
	Events     []projections.EventType
	Projectors []*projections.Projector
	Versions   projector.Versions
	Views      fs.FS  // <table>.sql, <table>.indexes.sql, <table>_<version>.sql
	Schema     string // of the view tables and the bookkeeping; default DefaultSchema
}

// definition is a Definition that was checked.
type definition struct {
	Definition
	set    *projections.Set
	owners map[string]*projections.Projector // by table
	files  map[string]sqlFile                // by name; those of all tables
}

// check finds everything that is wrong with d and that can be found without a database.
func (d Definition) check() (*definition, error) {
	d.Schema = cmp.Or(d.Schema, DefaultSchema)
	set, err := projections.NewSet(d.Events, d.Projectors...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDefinition, err)
	}
	c := &definition{Definition: d, set: set, owners: map[string]*projections.Projector{}, files: map[string]sqlFile{}}
	errs := []error{d.Versions.Validate()}
	for _, p := range d.Projectors {
		for _, t := range p.Tables {
			c.owners[t.TableName()] = p
			errs = append(errs, checkTableName(t.TableName()))
		}
	}
	for _, t := range set.Totals() {
		if n := len(t.Partial + versionSuffix(d.Versions.Target())); n > maxName {
			errs = append(errs, fmt.Errorf("table %s: its side table would have a name of %d bytes; PostgreSQL cuts names off after %d", t.Table, n, maxName))
		}
	}
	errs = append(errs, c.checkArchiveNames()...)
	errs = append(errs, c.checkVersions()...)
	errs = append(errs, c.loadFiles()...)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDefinition, err)
	}
	return c, nil
}

// checkTableName keeps clear of the names that bookkeeping and guards have in the same schema.
func checkTableName(name string) error {
	switch {
	case strings.HasPrefix(name, "projector_"), strings.HasPrefix(name, "at_"):
		return fmt.Errorf("table %s: names that begin with projector_ and at_ are the bookkeeping's", name)
	case strings.ContainsAny(name, `."%`):
		return fmt.Errorf("table %s: name it without a schema, quotes or %%", name)
	}
	return nil
}

// checkArchiveNames finds tables that have a name which the migration gives to another one's predecessor or successor.
func (c *definition) checkArchiveNames() (errs []error) {
	for name := range c.owners {
		for other := range c.owners {
			if rest, ok := strings.CutPrefix(name, other+"_"); ok && strings.Trim(rest, "0123456789") == "" {
				errs = append(errs, fmt.Errorf("table %s: version %s of table %s would have this name", name, rest, other))
			}
		}
	}
	return errs
}

// checkVersions checks the names in the versions. A table that no projector owns is known if a version drops it.
func (c *definition) checkVersions() (errs []error) {
	projectors := map[string]bool{}
	for _, p := range c.Projectors {
		projectors[p.Name] = true
	}
	dropped, replayed := map[string]bool{}, map[string]bool{}
	c.eachChange(func(_ int, ch projector.Change, name string) {
		switch ch.Kind() {
		case projector.KindDrop:
			dropped[name] = true
		case projector.KindReplay:
			replayed[name] = true
		}
	})
	for _, p := range c.Projectors {
		if !replayed[p.Name] {
			errs = append(errs, fmt.Errorf("no version replays projector %s, so its tables would never be made: add it to one", p.Name))
		}
	}
	c.eachChange(func(version int, ch projector.Change, name string) {
		_, owned := c.owners[name]
		switch {
		case ch.Kind() == projector.KindReplay && !projectors[name]:
			errs = append(errs, fmt.Errorf("version %d replays projector %s, which is not in the definition%s", version, name,
				nearest.DidYouMean("", name, maps.Keys(projectors))))
		case ch.Kind() == projector.KindAlter && !owned && !dropped[name]:
			errs = append(errs, fmt.Errorf("version %d alters table %s, which no projector owns%s", version, name,
				nearest.DidYouMean("", name, maps.Keys(c.owners))))
		case ch.Kind() == projector.KindDrop && owned:
			errs = append(errs, fmt.Errorf("version %d drops table %s, which projector %s still owns", version, name, c.owners[name].Name))
		}
	})
	return errs
}

func (c *definition) eachChange(fn func(version int, ch projector.Change, name string)) {
	for _, version := range slices.Sorted(maps.Keys(c.Versions)) {
		for _, ch := range c.Versions[version] {
			for _, name := range ch.Names() {
				fn(version, ch, name)
			}
		}
	}
}

// loadFiles reads and checks the SQL files of all tables.
func (c *definition) loadFiles() (errs []error) {
	for _, p := range c.Projectors {
		for _, t := range p.Tables {
			table := t.TableName()
			f, err := readFile(c.Views, table+".sql")
			if err != nil {
				errs = append(errs, fmt.Errorf("table %s of projector %s: %w", table, p.Name, err))
				continue
			}
			c.files[f.name] = f
			errs = append(errs, f.checkCreates(table, p.Name, c.Versions.Target()), f.check(c.Versions.Target()))
			f, err = readFile(c.Views, table+".indexes.sql")
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			c.files[f.name] = f
			errs = append(errs, f.check(c.Versions.Target()))
		}
	}
	return errs
}

// tablesOf returns the tables of the projectors, in the order in which they are declared.
func tablesOf(ps ...*projections.Projector) (tables []string) {
	for _, p := range ps {
		for _, t := range p.Tables {
			tables = append(tables, t.TableName())
		}
	}
	return tables
}
