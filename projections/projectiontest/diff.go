package projectiontest

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viewschema/projector/projections"
)

// diff says how rows differ from those that are wanted; it is empty if they do not. Rows are matched by key.
func (o *options) diff(got, want []projections.Row) string {
	var b strings.Builder
	wanted, found := map[string]any{}, map[string]bool{}
	for _, w := range want {
		wanted[w.Key] = w.Value
	}
	for _, g := range got {
		found[g.Key] = true
		w, ok := wanted[g.Key]
		if !ok {
			fmt.Fprintf(&b, "    %s: is there, and was not expected\n        %s\n", named(g.Key), literal(g.Value))
			continue
		}
		if fields := o.fields(g.Value, w); fields != "" {
			fmt.Fprintf(&b, "    %s:\n%s", named(g.Key), fields)
		}
	}
	for _, w := range want {
		if !found[w.Key] {
			fmt.Fprintf(&b, "    %s: is missing\n        %s\n", named(w.Key), literal(w.Value))
		}
	}
	return b.String()
}

// fields lists the fields in which two rows differ.
func (o *options) fields(got, want any) string {
	var b strings.Builder
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		f := g.Type().Field(i)
		if !isColumn(f) || o.ignored[g.Type()][f.Name] {
			continue
		}
		gv, wv := g.Field(i).Interface(), w.Field(i).Interface()
		if cmp.Equal(gv, wv, o.compare) {
			continue
		}
		if composite(f.Type) {
			text := strings.TrimSuffix(cmp.Diff(wv, gv, o.compare), "\n")
			fmt.Fprintf(&b, "        %s, - wanted, + got:\n            %s\n", f.Name, strings.ReplaceAll(text, "\n", "\n            "))
			continue
		}
		fmt.Fprintf(&b, "        %s: got %s, want %s\n", f.Name, printed(g.Field(i)), printed(w.Field(i)))
	}
	return b.String()
}

// isColumn leaves out what is not of the table: bun.BaseModel, fields that are not exported, and those tagged bun:"-".
func isColumn(f reflect.StructField) bool {
	return f.IsExported() && f.Type.Size() > 0 && f.Tag.Get("bun") != "-"
}

func composite(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Map, reflect.Slice, reflect.Struct, reflect.Interface:
		return t != reflect.TypeFor[time.Time]() && !t.Implements(reflect.TypeFor[fmt.Stringer]())
	}
	return false
}

// literal prints a struct as Go would write it, as far as its fields are not zero.
func literal(v any) string {
	row := reflect.Indirect(reflect.ValueOf(v))
	if row.Kind() != reflect.Struct {
		return fmt.Sprintf("%v", v)
	}
	var fields []string
	for i := range row.NumField() {
		if f := row.Type().Field(i); isColumn(f) && !row.Field(i).IsZero() {
			fields = append(fields, f.Name+": "+printed(row.Field(i)))
		}
	}
	return row.Type().String() + "{" + strings.Join(fields, ", ") + "}"
}

// printed prints the value of a field.
func printed(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "nil"
		}
		return "&" + printed(v.Elem())
	}
	switch x := v.Interface().(type) {
	case time.Time:
		return x.Format(time.RFC3339Nano)
	case string:
		return fmt.Sprintf("%q", x)
	case fmt.Stringer:
		return named(x.String())
	}
	if v.Kind() == reflect.String {
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprintf("%+v", v.Interface())
}
