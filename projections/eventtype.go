package projections

import (
	"fmt"
	"reflect"

	"github.com/go-json-experiment/json"
)

// EventType ties a type name of the event store to a Go payload type. JSON, Decode and Ignore make them.
type EventType interface {
	// names are the names in the event store, first those that are not former ones.
	names() []string
	// versions is what there is to know of former events; nil: nothing.
	versions() *versions
	// payload is nil for ignored types.
	payload() reflect.Type
	// bind finds the handlers of the payload type, and is nil if there are none.
	bind(ps []*Projector) binding
}

// JSON says that events stored as name carry a JSON payload P. Member names match in their exact case; duplicate ones and
// invalid UTF-8 are errors, members that P does not have are skipped. The options tell of events that were stored otherwise.
func JSON[P any](name string, options ...TypeOption) EventType {
	decode := func(data []byte, p *P) error { return json.Unmarshal(data, p) }
	return &typed[P]{name: name, decode: decode, former: newVersions(reflect.TypeFor[P](), false, options)}
}

// Decode says that decode makes a P of the payload of events stored as name: another codec than JSON. p points to a zero P.
// The data is borrowed: what decode keeps of it, it has to copy. Workers call decode at the same time.
func Decode[P any](name string, decode func(data []byte, p *P) error, options ...TypeOption) EventType {
	return &typed[P]{name: name, decode: decode, former: newVersions(reflect.TypeFor[P](), true, options)}
}

// Ignore names event types that no projector wants. Events of types that are neither decoded nor ignored are left out, too,
// but whoever migrates is warned of them.
func Ignore(names ...string) EventType { return ignored(names) }

type typed[P any] struct {
	name   string
	decode func([]byte, *P) error
	former *versions
}

func (t *typed[P]) versions() *versions   { return t.former }
func (t *typed[P]) payload() reflect.Type { return reflect.TypeFor[P]() }

func (t *typed[P]) names() []string {
	names := []string{t.name}
	if t.former != nil {
		names = append(names, t.former.former...)
	}
	return names
}

// decodeFormer decodes an event of a type that has options, whatever it was stored as. Errors say what that was.
func (t *typed[P]) decodeFormer(e *Raw, p *P) error {
	version, steps, ok := t.former.path(e)
	var err error
	switch {
	case !ok:
		err = t.former.undeclared()
	case len(steps) > 0:
		var payload any
		if payload, err = climb(e.Data, steps); err == nil {
			*p = payload.(P)
		}
	default:
		if err = t.decode(e.Data, p); err != nil {
			err = fmt.Errorf("decode into %T: %w", *p, err)
		}
	}
	if err == nil {
		return nil
	}
	stored := ""
	if string(e.Type) != t.name {
		stored = fmt.Sprintf(", stored as %s", e.Type)
	}
	return fmt.Errorf("version %q%s: %w", version, stored, err)
}

type ignored []string

func (n ignored) names() []string           { return n }
func (n ignored) versions() *versions       { return nil }
func (n ignored) payload() reflect.Type     { return nil }
func (n ignored) bind([]*Projector) binding { return nil }
