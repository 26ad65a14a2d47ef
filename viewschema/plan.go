package viewschema

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/viewschema/projector"
	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
	"github.com/viewschema/projector/replay"
)

// Plan is everything needed to get from the current version to the target.
type Plan struct {
	From       int           `json:"from"`
	To         int           `json:"to"`
	Projectors []string      `json:"projectors"` // that are replayed
	Lane       []string      `json:"lane"`       // those of them that are replayed in the order of the store
	Tables     []TableChange `json:"tables"`
	Omitted    []string      `json:"omitted"` // changes that the plan does not need, and why
	Events     int64         `json:"events"`  // about how many events the store holds
	Batches    int           `json:"batches"` // about how many transactions the replay takes
	Reading    *Reading      `json:"reading,omitempty"`
	Types
	Hazards   []Hazard     `json:"hazards"`
	Carried   []string     `json:"carried"`   // what hangs on the live tables and is made anew in the cutover
	UnderWay  replay.State `json:"under_way"` // of a migration to this target that was begun; empty: none was
	back      bool         // a rollback
	unindexed bool         // the new tables are not there, or not with all of their indexes
}

// Reading is how a replay reads the event table; see replay.Passes.
type Reading struct {
	Passes int `json:"passes"` // statements, each of which reads one range of aggregates
	eventstore.Layout
}

// TableChange is what a plan does with one table.
type TableChange struct {
	Table     string         `json:"table"`
	Kind      projector.Kind `json:"change"`
	Projector string         `json:"projector,omitempty"` // replay
	Built     string         `json:"built,omitempty"`     // replay: its name until the cutover
	Archived  string         `json:"archived,omitempty"`  // replay, drop: what the former table is called afterwards
	Query     string         `json:"query,omitempty"`     // replay: the file of the query that PostgreSQL computes it with
	Files     []string       `json:"files"`
	alters    []sqlFile
}

// Hazard is something about the database that the operator has to know before the migration.
type Hazard struct {
	Blocks Stage  `json:"blocks"` // what is refused because of it; empty: nothing is
	Text   string `json:"text"`
}

// Stage is a step of a migration.
type Stage string

// The steps that a hazard can block.
const (
	StageOnline  Stage = "migrate online"
	StageOffline Stage = "migrate offline"
)

// Nothing says whether the database is at the target already.
func (p *Plan) Nothing() bool { return p.From == p.To }

// replayed returns the tables that are replayed.
func (p *Plan) replayed() []TableChange {
	return slices.DeleteFunc(slices.Clone(p.Tables), func(t TableChange) bool { return t.Kind != projector.KindReplay })
}

// reduce makes a plan of the versions above from, up to the target. A table is replayed once, however many versions ask
// for it. It is made from <table>.sql, which has the newest shape, so alters of it are left out, and so are alters of tables
// that are dropped later.
func (c *definition) reduce(from int) (*Plan, error) {
	p := &Plan{From: from, To: c.Versions.Target(), Projectors: []string{}, Lane: []string{}, Tables: []TableChange{}, Omitted: []string{}}
	replayedBy, droppedBy := map[string]int{}, map[string]int{}
	c.eachChange(func(version int, ch projector.Change, name string) {
		switch {
		case version <= from:
		case ch.Kind() == projector.KindReplay:
			if earlier, twice := replayedBy[name]; twice {
				p.omit("version %d replays projector %s; version %d replays it again", earlier, name, version)
			}
			replayedBy[name] = version
		case ch.Kind() == projector.KindDrop:
			droppedBy[name] = version
		}
	})
	for _, pr := range c.Projectors {
		if _, ok := replayedBy[pr.Name]; !ok {
			continue
		}
		p.Projectors = append(p.Projectors, pr.Name)
		for _, t := range pr.Tables {
			p.Tables = append(p.Tables, c.replay(t, pr.Name, p))
		}
	}
	if err := c.alters(p, replayedBy, droppedBy); err != nil {
		return nil, err
	}
	for _, table := range slices.Sorted(maps.Keys(droppedBy)) {
		p.Tables = append(p.Tables, TableChange{Table: table, Kind: projector.KindDrop, Archived: table + versionSuffix(from), Files: []string{}})
	}
	return p, nil
}

func (c *definition) replay(of projections.Table, owner string, p *Plan) TableChange {
	table := of.TableName()
	t := TableChange{Table: table, Kind: projector.KindReplay, Projector: owner, Built: table + versionSuffix(p.To), Files: []string{table + ".sql"}}
	if p.From > 0 {
		t.Archived = table + versionSuffix(p.From)
	}
	if f, ok := c.files[table+".indexes.sql"]; ok {
		t.Files = append(t.Files, f.name)
	}
	if q, ok := of.(*projections.SQLTable); ok {
		t.Query = cmp.Or(q.File, q.Name)
	}
	return t
}

func (c *definition) alters(p *Plan, replayedBy, droppedBy map[string]int) error {
	altered := map[string]int{} // index in p.Tables
	var failed error
	c.eachChange(func(version int, ch projector.Change, table string) {
		if version <= p.From || ch.Kind() != projector.KindAlter || failed != nil {
			return
		}
		if owner, ok := c.owners[table]; ok {
			if by, replayed := replayedBy[owner.Name]; replayed {
				p.omit("version %d alters %s; the replay for version %d makes it in its newest shape", version, table, by)
				return
			}
		}
		if by, dropped := droppedBy[table]; dropped {
			p.omit("version %d alters %s; version %d drops it", version, table, by)
			return
		}
		f, err := readFile(c.Views, fmt.Sprintf("%s_%d.sql", table, version))
		if err == nil {
			err = f.checkStatements()
		}
		if err != nil {
			failed = fmt.Errorf("%w: version %d alters %s: %w", ErrDefinition, version, table, err)
			return
		}
		i, ok := altered[table]
		if !ok {
			i = len(p.Tables)
			altered[table] = i
			p.Tables = append(p.Tables, TableChange{Table: table, Kind: projector.KindAlter})
		}
		p.Tables[i].Files = append(p.Tables[i].Files, f.name)
		p.Tables[i].alters = append(p.Tables[i].alters, f)
	})
	return failed
}

func (p *Plan) omit(format string, args ...any) {
	p.Omitted = append(p.Omitted, fmt.Sprintf(format, args...))
}
