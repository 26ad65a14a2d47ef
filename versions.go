package projector

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Versions says what each version of the view schema changes, from version 1 on without a gap. The highest key is the
// target: the version that this release of the application works with.
type Versions map[int][]Change

// Target returns the highest version, 0 if there is none.
func (v Versions) Target() int {
	target := 0
	for n := range v {
		target = max(target, n)
	}
	return target
}

// UpTo returns the versions up to and including target: the view schema as an earlier release knew it.
func (v Versions) UpTo(target int) Versions {
	upTo := maps.Clone(v)
	maps.DeleteFunc(upTo, func(n int, _ []Change) bool { return n > target })
	return upTo
}

// Validate reports everything that is wrong with the versions in themselves: none at all, a number below 1, a gap, a
// version without a change, a change without a name. Whether the names exist is for package viewschema to say.
func (v Versions) Validate() error {
	if len(v) == 0 {
		return errors.New("versions: there are none; start with version 1")
	}
	var errs []error
	for _, n := range slices.Sorted(maps.Keys(v)) {
		if n < 1 {
			errs = append(errs, fmt.Errorf("versions: %d: versions start at 1", n))
			continue
		}
		if _, ok := v[n-1]; !ok && n > 1 {
			errs = append(errs, fmt.Errorf("versions: %d is missing before %d", n-1, n))
		}
		if len(v[n]) == 0 {
			errs = append(errs, fmt.Errorf("versions: %d changes nothing", n))
		}
		for _, c := range v[n] {
			if err := c.validate(); err != nil {
				errs = append(errs, fmt.Errorf("versions: %d: %w", n, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Kind is what a change does.
type Kind string

// The kinds of changes.
const (
	KindReplay Kind = "replay" // rebuild all tables of projectors from the events
	KindAlter  Kind = "alter"  // run <table>_<version>.sql on live tables, in the cutover
	KindDrop   Kind = "drop"   // archive tables that no projector owns any more
)

// Change is one change of a version, made by Replay, Alter or Drop.
type Change struct {
	kind  Kind
	names []string
}

// Kind returns what the change does; it is empty for a Change that no function of this package made.
func (c Change) Kind() Kind { return c.kind }

// Names returns the names of the projectors (KindReplay) or tables (KindAlter, KindDrop) that change.
func (c Change) Names() []string { return slices.Clone(c.names) }

func (c Change) validate() error {
	switch {
	case c.kind == "":
		return errors.New("an empty change; make it with Replay, Alter or Drop")
	case len(c.names) == 0:
		return fmt.Errorf("%s names nothing", c.kind)
	case slices.Contains(c.names, ""):
		return fmt.Errorf("%s: an empty name", c.kind)
	}
	return nil
}

// Projector is a projector by name; *projections.Projector is one, Named("…") another.
type Projector interface{ ProjectorName() string }

// Table is a view table by name; *projections.Rows and Named("…") are some.
type Table interface{ TableName() string }

// Named refers to a projector or table that has no Go value, such as one that was dropped since.
type Named string

// ProjectorName implements Projector.
func (n Named) ProjectorName() string { return string(n) }

// TableName implements Table.
func (n Named) TableName() string { return string(n) }

// Replay rebuilds all tables of the projectors from the events.
func Replay(ps ...Projector) Change {
	c := Change{kind: KindReplay}
	for _, p := range ps {
		c.names = append(c.names, p.ProjectorName())
	}
	return c
}

// Alter runs <table>_<version>.sql on the live tables, in the cutover.
func Alter(ts ...Table) Change { return change(KindAlter, ts) }

// Drop archives tables that no projector owns any more.
func Drop(ts ...Table) Change { return change(KindDrop, ts) }

func change(kind Kind, ts []Table) Change {
	c := Change{kind: kind}
	for _, t := range ts {
		c.names = append(c.names, t.TableName())
	}
	return c
}
