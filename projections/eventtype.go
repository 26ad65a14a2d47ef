package projections

import (
	"reflect"

	"github.com/go-json-experiment/json"
)

// EventType ties a type name of the event store to a Go payload type. JSON, Decode and Ignore make them.
type EventType interface {
	// names are the names in the event store.
	names() []string
	// payload is nil for ignored types.
	payload() reflect.Type
	// bind finds the handlers of the payload type, and is nil if there are none.
	bind(ps []*Projector) binding
}

// JSON says that events stored as name carry a JSON payload P. Member names match in their exact case; duplicate ones and
// invalid UTF-8 are errors, members that P does not have are skipped.
func JSON[P any](name string) EventType {
	return Decode(name, func(data []byte, p *P) error { return json.Unmarshal(data, p) })
}

// Decode says that decode makes a P of the payload of events stored as name: another codec, an older schema version.
// p points to a zero P. The data is borrowed: what decode keeps of it, it has to copy. Workers call decode at the same time.
func Decode[P any](name string, decode func(data []byte, p *P) error) EventType {
	return &typed[P]{name: name, decode: decode}
}

// Ignore names event types that no projector wants. Events of types that are neither decoded nor ignored are left out, too,
// but whoever migrates is warned of them.
func Ignore(names ...string) EventType { return ignored(names) }

type typed[P any] struct {
	name   string
	decode func([]byte, *P) error
}

func (t *typed[P]) names() []string       { return []string{t.name} }
func (t *typed[P]) payload() reflect.Type { return reflect.TypeFor[P]() }

type ignored []string

func (n ignored) names() []string           { return n }
func (n ignored) payload() reflect.Type     { return nil }
func (n ignored) bind([]*Projector) binding { return nil }
