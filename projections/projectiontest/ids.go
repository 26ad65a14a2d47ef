package projectiontest

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/viewschema/projector/projections"
)

// UUID makes an id of a name, so that failures can say anna where they would say 616e6e61-0000-0000-0000-000000000000. The
// id fits every UUID type that is a [16]byte. It panics if the name is empty, longer than 16 bytes, or more than ASCII.
func UUID(name string) (id [16]byte) {
	if len(name) == 0 || len(name) > len(id) || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		panic(fmt.Sprintf("projectiontest.UUID(%q): a name has 1 to 16 letters, digits or signs of ASCII", name))
	}
	copy(id[:], name)
	return id
}

// At is the time of the event at a position, unless the test gives it another: seconds after 2024-01-01T00:00:00Z.
func At(position int64) time.Time {
	return time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(position) * time.Second)
}

// named prints the ids that UUID has made as names; it takes a key of a row as a message prints it.
func named(key string) string {
	id, err := uuid.Parse(key)
	if err != nil || len(key) != 36 {
		return key
	}
	name := strings.TrimRight(string(id[:]), "\x00")
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return key
	}
	return name
}

// aggregateID makes an id of what a test writes: a projections.ID, a UUID of whatever type, or a string.
func aggregateID(v any) (projections.ID, error) {
	if id, ok := v.(projections.ID); ok && !id.IsZero() {
		return id, nil
	}
	r, uuids := reflect.ValueOf(v), reflect.TypeFor[[16]byte]()
	switch {
	case r.IsValid() && r.Kind() == reflect.Array && r.CanConvert(uuids):
		return projections.UUID(r.Convert(uuids).Interface().([16]byte)), nil
	case r.IsValid() && r.Kind() == reflect.String:
		return projections.Text(r.String()), nil
	}
	return projections.ID{}, fmt.Errorf("an aggregate's id is a UUID, a string or a projections.ID, not %T %v", v, v)
}
