package viewschema

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/nearest"
)

// TypeCount is an event type in the store that the definition does not know.
type TypeCount struct {
	Type   string `json:"type"`
	Events int64  `json:"events"` // with this type; about, unless Types.Exact
	Hint   string `json:"hint,omitempty"`
}

// AbsentType is an event type of the definition of which the store has no event, under whatever name.
type AbsentType struct {
	Type string `json:"type"`
	Hint string `json:"hint,omitempty"`
}

// Types says where the event types of the store and those of the definition differ.
type Types struct {
	Exact   bool         `json:"types_exact"` // all events were looked at, and not a sample
	Unknown []TypeCount  `json:"unknown_types"`
	Absent  []AbsentType `json:"absent_types"`
}

// types compares the event types of the store with those of the definition; all says to look at all events, and not at a
// sample. An empty store says nothing about types that it lacks. If the plan replays nothing, or SQL tables alone, nothing is
// decoded, and whatever a query makes of a type is known to it alone.
func (s *Schema) types(ctx context.Context, source *eventstore.Reader, plan *Plan, all bool) (Types, error) {
	found := Types{Unknown: []TypeCount{}, Absent: []AbsentType{}}
	if len(plan.Projectors) == 0 || s.projections(plan, "").OnlySQL() {
		return found, nil
	}
	var stored []eventstore.TypeCount
	err := s.sampling(ctx, func(tx pgx.Tx) (err error) {
		stored, found.Exact, err = source.Types(ctx, tx, all)
		return err
	})
	if err != nil {
		return found, err
	}
	known, unknown, occurs := s.def.set.Known(), map[string]bool{}, map[string]bool{}
	for _, t := range stored {
		occurs[t.Type] = true
		if !slices.Contains(known, t.Type) {
			unknown[t.Type] = true
			found.Unknown = append(found.Unknown, TypeCount{t.Type, t.Events, hint(nearest.DidYouMean("", t.Type, slices.Values(known)))})
		}
	}
	for _, d := range s.def.set.Declared() {
		names := append([]string{d.Name}, d.Former...)
		if len(stored) > 0 && !slices.ContainsFunc(names, func(name string) bool { return occurs[name] }) {
			found.Absent = append(found.Absent, AbsentType{d.Name, hint(nearest.DidYouMean("", d.Name, maps.Keys(unknown)))})
		}
	}
	return found, nil
}

// hint is a question that stands for itself.
func hint(question string) string { return strings.TrimPrefix(question, "; ") }

// refused says what --strict-types does not allow; nil if there is nothing.
func (t Types) refused() error {
	r := &refusal{}
	for _, u := range t.Unknown {
		r.add("the definition does not know the event type %s, which the store has %d times%s; decode it, or name it in projections.Ignore",
			u.Type, u.Events, asked(u.Hint))
	}
	for _, a := range t.Absent {
		r.add("the store has no event of the type %s%s; leave it out of the definition, or go on without --strict-types", a.Type, asked(a.Hint))
	}
	return r.orNil()
}

// asked puts a hint into a sentence.
func asked(hint string) string {
	if hint == "" {
		return ""
	}
	return " (" + hint + ")"
}

// checkTypes refuses a plan by Options.StrictTypes. It looks at all events.
func (s *Schema) checkTypes(ctx context.Context, source *eventstore.Reader, plan *Plan) error {
	if !s.opts.StrictTypes {
		return nil
	}
	found, err := s.types(ctx, source, plan, true)
	if err != nil {
		return err
	}
	return found.refused()
}

// warnOfTypes tells of events that a rebuild leaves out: never in silence, since a misspelled name leaves out all of its type.
func (s *Schema) warnOfTypes(ctx context.Context, source *eventstore.Reader, plan *Plan) error {
	if s.opts.StrictTypes { // there are none, see checkTypes
		return nil
	}
	found, err := s.types(ctx, source, plan, false)
	if err != nil {
		return err
	}
	for _, t := range found.Unknown {
		s.opts.Log.Warn().Str("type", t.Type).Int64("events", t.Events).Bool("exact", found.Exact).Str("hint", t.Hint).
			Msg("the definition does not know this event type and leaves its events out; decode it, or name it in projections.Ignore")
	}
	return nil
}
