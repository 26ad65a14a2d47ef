package eventtable

import (
	"fmt"
	"slices"
	"strings"
)

// axon names the columns of Axon's event table, which every version and naming strategy spells in its own way.
type axon struct {
	aggregate, sequence, aggregateType, time, position string
}

// axonOf returns nil if the table does not have Axon's columns.
func axonOf(t *table) *axon {
	found := map[string]string{}
	for name := range t.columns {
		found[strings.ToLower(strings.ReplaceAll(name, "_", ""))] = name
	}
	a := &axon{
		aggregate: found["aggregateidentifier"], sequence: found["sequencenumber"], aggregateType: found["type"], time: found["timestamp"],
		position: found["globalindex"],
	}
	if slices.Contains([]string{a.aggregate, a.sequence, a.aggregateType, a.time, found["eventidentifier"], found["payloadtype"]}, "") {
		return nil
	}
	if a.position == "" { // named as Axon 3 names it by the same strategy
		switch {
		case strings.Contains(a.aggregate, "_"):
			a.position = "global_index"
		case a.aggregate != strings.ToLower(a.aggregate):
			a.position = "globalIndex"
		default:
			a.position = "globalindex"
		}
	}
	return a
}

// axon2Of returns nil unless the table is Axon 2's, or one whose upgrade has not come to its last step.
func axon2Of(t *table) *axon {
	a := axonOf(t)
	if a == nil {
		return nil
	}
	keys, _ := t.primaryKey()
	old := []string{a.aggregate, a.sequence, a.aggregateType}
	if !slices.Equal(keys, old) && !slices.Equal(keys, old[:2]) {
		return nil
	}
	return a
}

// timeOf returns SQL for an event's time, or why there is none. Axon 2 stores text in the writer's zone, and text with
// different offsets is not in the order of time. The casts of text to a timestamp are not immutable, since they depend on
// the session, and so cannot be indexed; make_timestamp can. A text of another form yields null: it must not fail, for it
// would fail in the application's insert.
func (a *axon) timeOf(t *table) (sql, typ, whyNot string) {
	column := quote(a.time)
	switch typ := t.columns[a.time].Type; typ {
	case "timestamp", "timestamptz", "int8":
		return column, typ, ""
	case "varchar", "text":
		return strings.ReplaceAll(`case when %T ~ ('^[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])'
          || '[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})?$')
      then make_timestamp(substr(%T, 1, 4)::int, substr(%T, 6, 2)::int, 1,
          substr(%T, 12, 2)::int, substr(%T, 15, 2)::int, substring(%T from '^.{17}([0-9.]+)')::float8)
        + make_interval(days => substr(%T, 9, 2)::int - 1)
        - (case when %T ~ '[+-][0-9]{2}:[0-9]{2}$'
            then make_interval(hours => left(right(%T, 6), 3)::int, mins => (left(right(%T, 6), 1) || right(%T, 2))::int)
            else make_interval() end)
    end`, "%T", column), "timestamp", ""
	default:
		return "", "", fmt.Sprintf("%s.%s is %s; the time has to be text, timestamp or bigint", t.relation(), a.time, typ)
	}
}
