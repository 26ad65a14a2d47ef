package projections

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// Set is event types and projectors that fit together. It is safe for concurrent use.
type Set struct {
	events     []EventType
	projectors []*Projector
	schema     string
	suffix     string

	bindings map[string]binding // of the events that are handled, by stored name
	byType   map[reflect.Type][]string
	spare    sync.Pool // of *Run, for Project
	split    []*Set    // by order, if the projectors have several
}

// NewSet checks everything that can be checked without a database and reports all that it finds.
func NewSet(types []EventType, ps ...*Projector) (*Set, error) {
	var c findings
	decoded := c.checkEvents(types)
	c.checkProjectors(ps, decoded)
	if err := errors.Join(c...); err != nil {
		return nil, err
	}
	return newSet(types, ps, "", ""), nil
}

func newSet(types []EventType, ps []*Projector, schema, suffix string) *Set {
	s := &Set{
		events: slices.Clone(types), projectors: slices.Clone(ps), schema: schema, suffix: suffix,
		bindings: map[string]binding{}, byType: map[reflect.Type][]string{},
	}
	for _, t := range types {
		if p := t.payload(); p != nil {
			s.byType[p] = append(s.byType[p], t.names()[0]) // what is new has no former name
		}
		if b := t.bind(ps); b != nil {
			for _, name := range t.names() {
				s.bindings[name] = b
			}
		}
	}
	s.split = s.splitByOrder()
	return s
}

// Only returns the set of some of the projectors, with the same event types. It panics if one is not of the set.
func (s *Set) Only(ps ...*Projector) *Set {
	for _, p := range ps {
		if !slices.Contains(s.projectors, p) {
			panic(fmt.Sprintf("projections: projector %s is not of the set", p.Name))
		}
	}
	return newSet(s.events, ps, s.schema, s.suffix)
}

// In returns the set whose runs write the tables named name+suffix in the schema; if that is empty, in the first schema of
// the connection's search_path that has them.
func (s *Set) In(schema, suffix string) *Set { return newSet(s.events, s.projectors, schema, suffix) }

// Projectors returns the projectors in the order of NewSet or Only.
func (s *Set) Projectors() []*Projector { return slices.Clone(s.projectors) }

// Types returns the stored names of the event types that the set's projectors handle, former ones included, sorted.
func (s *Set) Types() []string {
	var names []string
	for name := range s.bindings {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Known returns the stored names of all event types, handled, not handled and ignored, former ones included, sorted.
func (s *Set) Known() []string {
	var names []string
	for _, t := range s.events {
		names = append(names, t.names()...)
	}
	slices.Sort(names)
	return names
}

// Declared is what a set knows of an event type.
type Declared struct {
	Name     string
	Former   []string // names under which older events are stored
	Ignored  bool
	Versions string // what the options say, in one line; empty: there are none
}

// Declared lists the event types, handled, not handled and ignored, by name.
func (s *Set) Declared() (list []Declared) {
	for _, t := range s.events {
		names := t.names()
		if t.payload() != nil {
			list = append(list, Declared{Name: names[0], Former: names[1:], Versions: t.versions().String()})
			continue
		}
		for _, name := range names {
			list = append(list, Declared{Name: name, Ignored: true})
		}
	}
	slices.SortFunc(list, func(a, b Declared) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// KeyColumns returns the columns of a table that tell which row is which wherever it was made: the aggregate's id, and the
// primary key as far as the database does not number it; of a SQL table the aggregate's id alone.
func (s *Set) KeyColumns(table string) (names []string) {
	for _, p := range s.projectors {
		for _, t := range p.Tables {
			if t.TableName() != table {
				continue
			}
			switch t := t.(type) {
			case *SQLTable:
				names = append(names, t.Aggregate)
			case rowsTable:
				m := t.shape()
				for _, c := range append(slices.Clone(m.keys), m.aggregate) {
					if c != nil && !c.numbered && !slices.Contains(names, c.name) {
						names = append(names, c.name)
					}
				}
			}
		}
	}
	return names
}

// relation names a table in SQL and in messages.
func (s *Set) relation(table string) (sql, name string) {
	name = table + s.suffix
	if s.schema == "" {
		return pgx.Identifier{name}.Sanitize(), name
	}
	return pgx.Identifier{s.schema, name}.Sanitize(), s.schema + "." + name
}

type findings []error

func (c *findings) add(format string, args ...any) { *c = append(*c, fmt.Errorf(format, args...)) }

// checkEvents returns the payload types that are decoded.
func (c *findings) checkEvents(types []EventType) map[reflect.Type]bool {
	decoded, seen := map[reflect.Type]bool{}, map[string]EventType{}
	for i, t := range types {
		if t == nil {
			c.add("event type %d is nil", i)
			continue
		}
		p := t.payload()
		decoded[p] = true
		if v := t.versions(); v != nil {
			for _, problem := range v.problems {
				c.add("event type %s: %s", t.names()[0], problem)
			}
		}
		for _, name := range t.names() {
			switch other, twice := seen[name]; {
			case name == "":
				c.add("an event type of %s has no name", payloadName(p))
			case !twice:
				seen[name] = t
			case p != nil && other.payload() != nil:
				c.add("event type %s is declared twice, for %v and %v", name, other.payload(), p)
			case p == nil && other.payload() == nil:
				c.add("event type %s is ignored twice", name)
			default:
				c.add("event type %s is both decoded and ignored", name)
			}
		}
	}
	return decoded
}

func payloadName(p reflect.Type) string {
	if p == nil {
		return "Ignore"
	}
	return p.String()
}

func (c *findings) checkProjectors(ps []*Projector, decoded map[reflect.Type]bool) {
	names, owners := map[string]bool{}, map[string]string{}
	for i, p := range ps {
		if p == nil {
			c.add("projector %d is nil", i)
			continue
		}
		switch {
		case p.Name == "":
			c.add("projector %d has no name", i)
		case names[p.Name]:
			c.add("two projectors are named %s", p.Name)
		}
		names[p.Name] = true
		if len(p.Tables) == 0 {
			c.add("projector %s has no tables", p.Name)
		}
		for i, t := range p.Tables {
			if isNil(t) {
				c.add("projector %s: table %d is nil", p.Name, i)
				continue
			}
			switch owner, owned := owners[t.TableName()]; {
			case owned && owner == p.Name:
				c.add("projector %s has table %s twice", p.Name, t.TableName())
			case owned:
				c.add("table %s has two owners, projectors %s and %s", t.TableName(), owner, p.Name)
			}
			owners[t.TableName()] = p.Name
		}
		c.checkSQLTables(p)
		c.checkOrder(p)
		c.checkHandlers(p, decoded)
	}
}

func (c *findings) checkHandlers(p *Projector, decoded map[reflect.Type]bool) {
	missing := map[reflect.Type]bool{}
	for i, h := range p.Handlers {
		if isNil(h) {
			c.add("projector %s: handler %d is nil", p.Name, i)
			continue
		}
		if t := h.payload(); !decoded[t] && !missing[t] {
			missing[t] = true
			c.add("projector %s handles %v, but no event type decodes to it: add projections.JSON[%v](\"…\") to the events", p.Name, t, t)
		}
	}
}

// isNil sees through the interface: On(nil) and a nil *Rows are nil, too.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Func || r.Kind() == reflect.Pointer) && r.IsNil()
}
