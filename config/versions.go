package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/viewschema/projector"
)

// versions makes the versions, and checks that the names in them are those of projectors and tables.
func (r *reader) versions(shape file) projector.Versions {
	owners := map[string]string{} // of tables
	var projectors, owned, dropped []string
	for _, p := range shape.Projectors {
		projectors = append(projectors, p.Key.value)
		for _, t := range p.Value.Tables {
			owned = append(owned, t.Key.value)
			owners[t.Key.value] = p.Key.value
		}
	}
	lastReplay := map[string]int{} // of projectors
	for _, v := range shape.Versions {
		dropped = append(dropped, values(v.Value.Drop)...)
		for _, p := range v.Value.Replay {
			n, _ := strconv.Atoi(v.Key.value) // errors are reported below
			lastReplay[p.value] = max(lastReplay[p.value], n)
		}
	}
	versions := projector.Versions{}
	for _, v := range shape.Versions {
		n, err := strconv.Atoi(v.Key.value)
		if err != nil || strconv.Itoa(n) != v.Key.value {
			r.add(v.Key.place, "version %q is no number; versions are 1, 2, 3 …", v.Key.value)
			continue
		}
		versions[n] = changes(v.Value)
		r.known(v.Value.Replay, "projector", projectors)
		r.known(v.Value.Alter, "table", slices.Concat(owned, dropped))
		for _, t := range v.Value.Alter {
			// What a replay of this or a later version makes, or a drop takes away, is never altered.
			if lastReplay[owners[t.value]] < n && slices.Contains(owned, t.value) {
				r.checkFile(t, t.value+"_"+v.Key.value+".sql", "it alters the live table")
			}
		}
		for _, t := range v.Value.Drop {
			if owner, ok := owners[t.value]; ok {
				r.add(t.place, "version %d drops table %s, which projector %s still owns", n, t.value, owner)
			}
		}
	}
	r.checkNumbers(shape.Versions, versions)
	return versions
}

// checkNumbers reports gaps and versions that change nothing, unless the versions have other errors, which may be the cause.
func (r *reader) checkNumbers(given section[version], versions projector.Versions) {
	if len(given) == 0 {
		return
	}
	begin := given[0].Key.place
	if slices.ContainsFunc(r.list, func(f finding) bool { return f.line >= begin.line }) {
		return
	}
	if err := versions.Validate(); err != nil {
		for line := range strings.Lines(err.Error()) {
			r.add(begin, "%s", strings.TrimSpace(line))
		}
	}
}

func changes(v version) (all []projector.Change) {
	if v.Replay != nil {
		all = append(all, projector.Replay(named[projector.Projector](v.Replay)...))
	}
	if v.Alter != nil {
		all = append(all, projector.Alter(named[projector.Table](v.Alter)...))
	}
	if v.Drop != nil {
		all = append(all, projector.Drop(named[projector.Table](v.Drop)...))
	}
	return all
}

func named[T any](names []text) (all []T) {
	for _, n := range names {
		all = append(all, any(projector.Named(n.value)).(T))
	}
	return all
}

// known reports the names that are not those of things that the file has.
func (r *reader) known(names []text, what string, known []string) {
	for _, n := range names {
		if !slices.Contains(known, n.value) {
			r.add(n.place, "there is no %s %s%s", what, n.value, suggest(n.value, known))
		}
	}
}

func values(ts []text) (all []string) {
	for _, t := range ts {
		all = append(all, t.value)
	}
	return all
}
