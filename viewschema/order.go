package viewschema

import (
	"cmp"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// ordered returns the tables that are replayed in the order of the store.
func (s *Schema) ordered(plan *Plan) (list []string) {
	for _, t := range names(plan.replayed()) {
		if s.def.owners[t].Order != projections.ByAggregate {
			list = append(list, t)
		}
	}
	return list
}

// lane returns the names of the projectors that are replayed in the order of the store.
func (s *Schema) lane(plan *Plan) []string {
	list := []string{}
	for _, part := range s.projections(plan, "").Ordered() {
		for _, p := range part.Projectors() {
			list = append(list, p.Name)
		}
	}
	return list
}

// checkOrders refuses projectors whose order the store does not have. reason says why its positions cannot be settled; it is empty
// if they can.
func (s *Schema) checkOrders(plan *Plan, source *eventstore.Reader, reason string) error {
	if source.SharedPositions() {
		reason = cmp.Or(reason, "the events of a transaction share a position, which says nothing about their order")
	}
	r := &refusal{}
	for _, part := range s.projections(plan, "").Ordered() {
		for _, p := range part.Projectors() {
			if reason != "" {
				r.add("projector %s has the order %v, and the store has none that can be relied on: %s; a projector with the order ByAggregate, and tables of totals, need none", p.Name, p.Order, reason)
			}
			if p.Order == projections.ByPartition && !source.Partitioned() {
				r.add("projector %s has the order %v, and the source names no partition: set Partition to a column or an expression that is uuid or text", p.Name, p.Order)
			}
		}
	}
	return r.orNil()
}
