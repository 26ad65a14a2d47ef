package projections

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
)

// TypeOption says how events were stored formerly: under other names, or with payloads of other shapes. Version, Upcast,
// DecodeUpcast, FormerName and VersionNamed make them.
type TypeOption func(*versions)

// Version says which schema versions have the event type's payload as it is now; "" are the events for which the store has
// no version. Without it, the payload is that of all versions; an event type with an Upcast has to say it. An event of a
// version that is neither here nor an Upcast's cannot be decoded, which is an *EventError.
func Version(current ...string) TypeOption {
	return func(v *versions) { v.current = append(v.current, current...) }
}

// Upcast says that events of a schema version carry a JSON payload From, and how to make a To of it: the event type's payload,
// or the From of another Upcast, which goes on from there. Payloads come as JSON says. What up does must depend on its
// argument alone; workers call it at the same time. Raise the revisions of the projectors that handle the event when it changes.
func Upcast[From, To any](version string, up func(From) (To, error)) TypeOption {
	return func(v *versions) {
		v.steps = append(v.steps, newStep(version, func(data []byte, f *From) error { return json.Unmarshal(data, f) }, up))
		v.jsonSteps = append(v.jsonSteps, version)
	}
}

// DecodeUpcast is Upcast for payloads of another codec than JSON; see Decode. Event types that are made with Decode take
// no other.
func DecodeUpcast[From, To any](version string, decode func(data []byte, f *From) error, up func(From) (To, error)) TypeOption {
	return func(v *versions) {
		if decode == nil {
			v.problem("the upcast of version %q has a nil decode", version)
			return
		}
		v.steps = append(v.steps, newStep(version, decode, up))
	}
}

// FormerName says that events stored under these names are of this type. Handlers get them with the type's name in Meta.Type.
func FormerName(names ...string) TypeOption {
	return func(v *versions) { v.former = append(v.former, names...) }
}

// VersionNamed is FormerName where the name tells the version, as AccountOpenedV1 does: events stored under these names are of
// this version, whatever schema version the store has for them.
func VersionNamed(version string, names ...string) TypeOption {
	return func(v *versions) {
		v.former = append(v.former, names...)
		for _, name := range names {
			v.named[name] = version
		}
	}
}

// versions is what the options of an event type come to.
type versions struct {
	current   []string // that have the payload as it is now; nil: all
	steps     []step
	jsonSteps []string // versions
	former    []string
	named     map[string]string // versions, by the stored names that tell them
	paths     map[string][]step // to the payload as it is now; nil: all versions have it
	problems  []string
}

// step makes the payload of one shape into that of the next.
type step struct {
	version  string // of the events that begin here
	from, to reflect.Type
	decode   func(data []byte) (any, error)
	up       func(from any) (any, error) // nil: none was given
}

func newStep[From, To any](version string, decode func([]byte, *From) error, up func(From) (To, error)) step {
	s := step{version: version, from: reflect.TypeFor[From](), to: reflect.TypeFor[To]()}
	s.decode = func(data []byte) (any, error) {
		var f From
		err := decode(data, &f)
		return f, err
	}
	if up != nil {
		s.up = func(from any) (any, error) { return up(from.(From)) }
	}
	return s
}

// newVersions resolves the options of an event type with payload p; it is nil if there are none. What is wrong with them is
// in problems: NewSet reports it.
func newVersions(p reflect.Type, ownCodec bool, options []TypeOption) *versions {
	if len(options) == 0 {
		return nil
	}
	v := &versions{named: map[string]string{}}
	for i, option := range options {
		if option == nil {
			v.problem("option %d is nil", i)
			continue
		}
		option(v)
	}
	if ownCodec && len(v.jsonSteps) > 0 {
		v.problem("it is made with Decode, and the upcast of version %q expects JSON: use projections.DecodeUpcast", v.jsonSteps[0])
	}
	if v.current == nil && (len(v.steps) > 0 || len(v.named) > 0) {
		v.problem("which version is a %v? Add projections.Version", p)
	}
	v.resolve(p)
	return v
}

func (v *versions) problem(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

// resolve finds the way from each version to the payload as it is now.
func (v *versions) resolve(p reflect.Type) {
	if v.current == nil && len(v.steps) == 0 {
		return
	}
	v.paths = map[string][]step{}
	declare := func(version string, path []step) {
		if _, twice := v.paths[version]; twice {
			v.problem("version %q is declared twice", version)
		}
		v.paths[version] = path
	}
	for _, version := range v.current {
		declare(version, nil)
	}
	next := map[reflect.Type]step{}
	for _, s := range v.steps {
		other, twice := next[s.from]
		switch {
		case s.up == nil:
			v.problem("the upcast of version %q is nil", s.version)
		case s.from == p:
			v.problem("the upcast of version %q begins at %v, which is the payload as it is now", s.version, p)
		case twice && other.version != s.version:
			v.problem("two upcasts begin at %v, of versions %q and %q: only one can go on from there", s.from, other.version, s.version)
		}
		if !twice {
			next[s.from] = s
		}
	}
	for _, s := range v.steps {
		declare(s.version, v.walk(s, p, next))
	}
	for _, name := range slices.Sorted(maps.Keys(v.named)) {
		if _, ok := v.paths[v.named[name]]; !ok {
			v.problem("name %s stands for version %q, which is not declared", name, v.named[name])
		}
	}
}

// walk follows the steps from s to the payload p. A gap is the problem of the step before it, a circle that of its steps.
func (v *versions) walk(s step, p reflect.Type, next map[reflect.Type]step) []step {
	path, seen := []step{s}, map[reflect.Type]bool{s.from: true}
	for at := s; at.to != p; {
		if seen[at.to] {
			if at.to == s.from {
				v.problem("the upcast of version %q leads in a circle, back to %v", s.version, s.from)
			}
			break
		}
		seen[at.to] = true
		following, ok := next[at.to]
		if !ok {
			if len(path) == 1 {
				v.problem("the upcast of version %q ends at %v, from where nothing leads on to %v", s.version, s.to, p)
			}
			break
		}
		path, at = append(path, following), following
	}
	return path
}

// path returns the steps that an event's payload takes; ok is false if its version is not declared.
func (v *versions) path(e *Raw) (version string, steps []step, ok bool) {
	version = e.SchemaVersion
	if named, is := v.named[string(e.Type)]; is {
		version = named
	}
	if v.paths == nil {
		return version, nil, true
	}
	steps, ok = v.paths[version]
	return version, steps, ok
}

// climb makes the payload of the first step and takes it through all.
func climb(data []byte, steps []step) (payload any, err error) {
	doing := fmt.Sprintf("decode into %v", steps[0].from)
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", doing, err)
		}
	}()
	if payload, err = steps[0].decode(data); err != nil {
		return nil, err
	}
	for _, s := range steps {
		doing = fmt.Sprintf("upcast from %v to %v", s.from, s.to)
		if payload, err = s.up(payload); err != nil {
			return nil, err
		}
	}
	return payload, nil
}

// undeclared is the error of an event whose version nobody has declared.
func (v *versions) undeclared() error {
	known := slices.Sorted(maps.Keys(v.paths))
	for i, version := range known {
		known[i] = strconv.Quote(version)
	}
	return errors.New("this schema version is not declared; declared are " + strings.Join(known, ", "))
}

// String describes what events were stored as, for fingerprints.
func (v *versions) String() string {
	if v == nil {
		return ""
	}
	var parts []string
	if v.current != nil {
		parts = append(parts, fmt.Sprintf("version %q", v.current))
	}
	for _, s := range v.steps {
		parts = append(parts, fmt.Sprintf("version %q from %v to %v", s.version, s.from, s.to))
	}
	for _, name := range v.former {
		part := "formerly " + name
		if version, ok := v.named[name]; ok {
			part += fmt.Sprintf(" (version %q)", version)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}
