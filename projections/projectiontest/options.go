package projectiontest

import (
	"fmt"
	"reflect"

	"github.com/google/go-cmp/cmp"

	"github.com/viewschema/projector/projections"
)

// Option changes a Test.
type Option func(*options) error

type options struct {
	eventTable string
	encode     func(e projections.New) ([]byte, error)
	compare    cmp.Options
	ignored    map[reflect.Type]map[string]bool
}

func newOptions(list []Option) (options, error) {
	// Types of other packages, as decimals, may have fields that are not exported.
	o := options{
		encode:  encode,
		ignored: map[reflect.Type]map[string]bool{},
		compare: cmp.Options{cmp.Exporter(func(reflect.Type) bool { return true })},
	}
	for _, option := range list {
		if err := option(&o); err != nil {
			return o, err
		}
	}
	return o, nil
}

// Ignore leaves fields of a model out of comparisons.
func Ignore(model any, fields ...string) Option {
	return func(o *options) error {
		t := reflect.TypeOf(model)
		for _, name := range fields {
			if f, ok := t.FieldByName(name); !ok || len(f.Index) != 1 {
				return fmt.Errorf("projectiontest.Ignore: %v has no field %s", t, name)
			}
			if o.ignored[t] == nil {
				o.ignored[t] = map[string]bool{}
			}
			o.ignored[t][name] = true
		}
		return nil
	}
}

// Compare changes how the values of fields are compared: see the packages cmp and cmpopts of github.com/google/go-cmp.
func Compare(how ...cmp.Option) Option {
	return func(o *options) error {
		o.compare = append(o.compare, how...)
		return nil
	}
}

// EventTable is the SQL that makes the event table which the definition's Source maps, for Database. Without it, it is a
// table events with the columns of the zero Mapping, and aggregate ids that are UUIDs.
func EventTable(sql string) Option {
	return func(o *options) error {
		o.eventTable = sql
		return nil
	}
}

// Encode is for payloads that the application does not store as JSON: it is the other half of projections.Decode.
func Encode(encode func(e projections.New) ([]byte, error)) Option {
	return func(o *options) error {
		o.encode = encode
		return nil
	}
}
