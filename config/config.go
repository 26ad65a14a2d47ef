package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/viewschema"
)

// Config is what a file says.
type Config struct {
	Definition     viewschema.Definition
	Database       string // URL, in which ${NAME} stands for an environment variable; empty: the file names none
	EventsDatabase string // the same, of the events; empty: Database has them
}

// Load reads the file and the queries that it names, relative to its folder. Everything that is wrong with it is reported at
// once, each thing with line and column, wrapped in viewschema.ErrDefinition. An error that is fs.ErrNotExist means that the
// file itself is missing. The tables' SQL files are read later, through Definition.Views.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	r := reader{findings: findings{name: path}, folder: filepath.Dir(path)}
	var c Config
	if shape, ok := r.decode(data); ok {
		r.openViews(shape)
		c = Config{
			Definition: viewschema.Definition{
				Source:     mapping(shape.Source),
				Projectors: r.projectors(shape.Projectors),
				Versions:   r.versions(shape),
				Views:      r.views,
				Schema:     shape.ViewSchema.value,
			},
			Database:       shape.Database.value,
			EventsDatabase: shape.EventsDatabase.value,
		}
	}
	if err := r.err(); err != nil {
		return Config{}, fmt.Errorf("%w: %w", viewschema.ErrDefinition, err)
	}
	return c, nil
}

const defaultViews = "sql/views"

// reader makes a definition of what a file says.
type reader struct {
	findings
	folder string // that the file is in
	views  fs.FS  // the tables' SQL files; nil: there is no such folder
}

func (r *reader) inFolder(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(r.folder, path)
}

// mapping sets the fields of the same names.
func mapping(s source) (m eventstore.Mapping) {
	from, to := reflect.ValueOf(s), reflect.ValueOf(&m).Elem()
	for i := range from.NumField() {
		to.FieldByName(from.Type().Field(i).Name).SetString(from.Field(i).Interface().(text).value)
	}
	return m
}

func (r *reader) projectors(all section[projected]) (ps []*projections.Projector) {
	owners := map[string]text{}
	for _, p := range all {
		made := &projections.Projector{Name: p.Key.value, Revision: p.Value.Revision.value}
		for _, t := range p.Value.Tables {
			if owner, twice := owners[t.Key.value]; twice {
				r.add(t.Key.place, "table %s belongs to projector %s already; a table has one owner", t.Key.value, owner.value)
			}
			owners[t.Key.value] = p.Key
			r.checkFile(t.Key, t.Key.value+".sql", "it creates the table")
			query, file := r.query(t)
			made.Tables = append(made.Tables, &projections.SQLTable{
				Name: t.Key.value, Aggregate: t.Value.Aggregate.value, Query: query, File: file,
			})
		}
		ps = append(ps, made)
	}
	return ps
}

// query returns a table's query, and where it is from.
func (r *reader) query(t entry[sqlTable]) (query, from string) {
	inline, file := t.Value.Query, t.Value.QueryFile
	switch {
	case inline.given() && file.given():
		r.add(file.place, "table %s has a query and a query_file; leave one out", t.Key.value)
	case inline.given():
		return inline.value, fmt.Sprintf("%s:%d, query of %s", r.name, inline.line, t.Key.value)
	case !file.given():
		r.add(t.Key.place, "table %s has no query; add query_file: queries/%s.sql, or query", t.Key.value, t.Key.value)
	default:
		path := r.inFolder(file.value)
		data, err := os.ReadFile(path)
		if err != nil {
			r.add(file.place, "the query of table %s cannot be read: %v", t.Key.value, err)
		} else if strings.TrimSpace(string(data)) == "" {
			r.add(file.place, "the query of table %s is empty: %s", t.Key.value, path)
		}
		return string(data), path
	}
	return "", ""
}

// openViews finds the folder of the tables' SQL files.
func (r *reader) openViews(shape file) {
	at := place{1, 1}
	if shape.Views.given() {
		at = shape.Views.place
	}
	folder := r.inFolder(cmp.Or(shape.Views.value, defaultViews))
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.add(at, "views: there is no folder %s; it has to hold <table>.sql for each table", folder)
	case err != nil:
		r.add(at, "views: %v", err)
	case !info.IsDir():
		r.add(at, "views: %s is not a folder", folder)
	default:
		r.views = os.DirFS(folder)
	}
}

// checkFile reports a SQL file that is missing, at the place that asks for it.
func (r *reader) checkFile(t text, name, purpose string) {
	if r.views == nil {
		return
	}
	if _, err := fs.Stat(r.views, name); err != nil {
		r.add(t.place, "table %s: there is no %s in the views folder; %s", t.value, name, purpose)
	}
}
