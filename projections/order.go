package projections

import "slices"

func (o Order) String() string {
	switch o {
	case ByPosition:
		return "ByPosition"
	case ByPartition:
		return "ByPartition"
	}
	return "ByAggregate"
}

// Parallel returns the set of the projectors with the order ByAggregate, which may be none.
func (s *Set) Parallel() *Set {
	if s.Order() == ByAggregate && s.split == nil {
		return s
	}
	return s.with(ByAggregate)
}

// Ordered returns a set for each of the other orders that the set's projectors have. They get their events in the order of the
// store.
func (s *Set) Ordered() (sets []*Set) {
	for _, part := range s.parts() {
		if part.Order() != ByAggregate {
			sets = append(sets, part)
		}
	}
	return sets
}

// Order returns what the projectors rely on, of a set in which that is the same for all.
func (s *Set) Order() Order {
	if len(s.projectors) == 0 {
		return ByAggregate
	}
	return s.projectors[0].Order
}

func (s *Set) with(o Order) *Set {
	others := func(p *Projector) bool { return p.Order != o }
	return newSet(s.events, slices.DeleteFunc(slices.Clone(s.projectors), others), s.schema, s.suffix)
}

// splitByOrder returns the sets by order, of a set whose projectors have several.
func (s *Set) splitByOrder() (sets []*Set) {
	if !slices.ContainsFunc(s.projectors, func(p *Projector) bool { return p.Order != s.Order() }) {
		return nil
	}
	for _, o := range []Order{ByAggregate, ByPosition, ByPartition} {
		if part := s.with(o); len(part.projectors) > 0 {
			sets = append(sets, part)
		}
	}
	return sets
}

// parts are the set by order. Only they have runs.
func (s *Set) parts() []*Set {
	if s.split == nil {
		return []*Set{s}
	}
	return s.split
}

// scopeID is what the rows that handlers see have in common with the event: the id of the aggregate, or of the partition. ok is
// false for an event of no partition.
func (r *Run) scopeID(aggregate, partition ID) (id ID, ok bool) {
	if r.order == ByPartition {
		return partition, !partition.IsZero()
	}
	return aggregate, true
}

// checkOrder finds what is wrong with the tables of a projector for its order.
func (c *findings) checkOrder(p *Projector) {
	if p.Order < ByAggregate || p.Order > ByPartition {
		c.add("projector %s has the unknown order %d", p.Name, int(p.Order))
		return
	}
	for _, t := range p.Tables {
		if isNil(t) {
			continue
		}
		if _, ok := t.(*SQLTable); ok && p.Order != ByAggregate {
			c.add("projector %s has the order %v and SQL table %s, which PostgreSQL computes by aggregate: write it in Go, or leave the order out",
				p.Name, p.Order, t.TableName())
		}
		if rows, ok := t.(interface{ fits(Order) []string }); ok {
			for _, problem := range rows.fits(p.Order) {
				c.add("projector %s: table %s: %s", p.Name, t.TableName(), problem)
			}
		}
	}
}

// fits says why the table cannot be one of a projector with the order.
func (t *Rows[K, R]) fits(o Order) (problems []string) {
	switch {
	case o == ByAggregate && t.model.aggregate == nil:
		return []string{"no column holds the id of the row's aggregate: tag it view:\"aggregate\""}
	case o == ByPartition && t.model.aggregate == nil:
		return []string{"no column holds the id of the row's partition: tag it view:\"aggregate\""}
	case o != ByPosition:
		return nil
	}
	if t.keyColumns == nil {
		problems = append(problems, "a projector with the order ByPosition looks rows up by their key, and this one is no column: "+
			"return a field of the row that is an integer, a string or a UUID and not nullzero, or a struct of such")
	}
	for _, x := range t.lookups {
		if column := x.column; column != "" {
			problems = append(problems, "a projector with the order ByPosition looks the rows of an index up by their group, and this one is not column "+
				column+": return the field of that column, which has to be an integer, a string or a UUID and not nullzero")
		}
	}
	return problems
}
