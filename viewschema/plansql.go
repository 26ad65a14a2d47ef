package viewschema

import "github.com/viewschema/projector"

// Statement is SQL that a plan runs, from a file, or for the side table of an accumulating table.
type Statement struct {
	Stage Stage  `json:"stage"`
	File  string `json:"file"`
	SQL   string `json:"sql"`
}

// SQL returns the SQL files as the plan runs them, with their suffixes filled in and in their order, and what makes and merges
// side tables.
func (s *Schema) SQL(p *Plan) []Statement {
	list := []Statement{}
	suffix := versionSuffix(p.To)
	add := func(stage Stage, f sqlFile, suffix string) {
		list = append(list, Statement{Stage: stage, File: f.name, SQL: f.render(suffix)})
	}
	for _, table := range names(p.replayed()) {
		add(StageOnline, s.def.files[table+".sql"], suffix)
	}
	for _, table := range s.indexedFirst(p) {
		if f, ok := s.def.files[table+".indexes.sql"]; ok {
			add(StageOnline, f, suffix)
		}
	}
	for _, t := range s.projections(p, suffix).Totals() {
		list = append(list,
			Statement{Stage: StageOnline, File: "side table of " + t.Table, SQL: t.CreatePartial() + ";"},
			Statement{Stage: StageOnline, File: "merge of " + t.Table, SQL: t.Merge() + ";"})
	}
	for _, table := range s.indexed(p) {
		add(StageOnline, s.def.files[table+".indexes.sql"], suffix)
	}
	for _, t := range p.Tables {
		if t.Kind == projector.KindAlter {
			for _, f := range t.alters {
				add(StageOffline, f, "")
			}
		}
	}
	return list
}
