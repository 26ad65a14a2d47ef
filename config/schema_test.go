package config

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/viewschema/projector/eventstore"
)

// schemaFile is for editors, which find it by the first line of a projector.yaml.
const schemaFile = "../projector.schema.json"

func TestSchema(t *testing.T) {
	t.Parallel()
	schema := schemaOf(reflect.TypeFor[file]())
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "projector.yaml"
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile(schemaFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != string(want) {
		t.Errorf("%s is not what the types in shape.go say; type: go test ./config -run TestSchema -update", schemaFile)
	}
}

// schemaOf describes a type of shape.go.
func schemaOf(typ reflect.Type) map[string]any {
	object := map[string]any{"type": "object", "additionalProperties": false}
	switch {
	case typ == reflect.TypeFor[text]():
		return map[string]any{"type": "string"}
	case typ == reflect.TypeFor[number]():
		return map[string]any{"type": "integer"}
	case typ == reflect.TypeFor[[]text]():
		return map[string]any{"type": "array", "items": schemaOf(reflect.TypeFor[text]())}
	case typ == reflect.TypeFor[section[version]]():
		object["patternProperties"] = map[string]any{"^[1-9][0-9]*$": schemaOf(reflect.TypeFor[version]())}
		return object
	case typ.Kind() == reflect.Slice:
		value, _ := typ.Elem().FieldByName("Value")
		object["additionalProperties"] = schemaOf(value.Type)
		return object
	}
	properties := map[string]any{}
	var required []string
	for field := range typ.Fields() {
		key, rest, _ := strings.Cut(field.Tag.Get("key"), ",")
		property := schemaOf(field.Type)
		property["description"] = field.Tag.Get("doc")
		if values := field.Tag.Get("values"); values != "" {
			property["enum"] = strings.Split(values, ",")
		}
		properties[key] = property
		if rest == "required" {
			required = append(required, key)
		}
	}
	object["properties"] = properties
	if required != nil {
		object["required"] = required
	}
	return object
}

// source has a key for every field of a Mapping, and knows every word that one may be.
func TestSourceIsMapping(t *testing.T) {
	t.Parallel()
	keys := reflect.TypeFor[source]()
	for field := range reflect.TypeFor[eventstore.Mapping]().Fields() {
		if _, ok := keys.FieldByName(field.Name); !ok {
			t.Errorf("eventstore.Mapping has %s, and source has no key for it", field.Name)
		}
	}
	positions, _ := keys.FieldByName("Positions")
	for _, p := range []eventstore.Positions{
		eventstore.PositionsDrawnAhead, eventstore.PositionsInCommitOrder, eventstore.PositionsOfTransactions,
	} {
		if !strings.Contains(positions.Tag.Get("values"), string(p)) {
			t.Errorf("positions does not know %q", p)
		}
	}
}
