package projections_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/projections"
)

// The shapes that opened had before.
type (
	openedV1 struct {
		First string `json:"first"`
		Last  string `json:"last"`
	}
	openedV2 struct {
		Name string `json:"name"`
	}
)

func openedV1toV2(e openedV1) (openedV2, error) {
	switch e.First {
	case "":
		return openedV2{}, errors.New("nobody")
	case "panic":
		panic("at the disco")
	}
	return openedV2{e.First + " " + e.Last}, nil
}

func openedV2toV3(e openedV2) (opened, error) { return opened{Owner: e.Name, IBAN: "none"}, nil }

// openedHistory is the history of AccountOpened.
var openedHistory = []projections.TypeOption{
	projections.Version("3", "3.1"),
	projections.Upcast("1", openedV1toV2),
	projections.Upcast("2", openedV2toV3),
	projections.FormerName("AccountCreated"),
	projections.VersionNamed("2", "AccountBegun"),
}

func TestUpcast(t *testing.T) {
	t.Parallel()
	pool, _ := bank(t)
	seen := map[projections.ID]string{}
	p := &projections.Projector{Name: "p", Tables: []projections.Table{accounts}, Handlers: []projections.Handler{
		projections.On(func(_ *projections.Store, e projections.Event[opened]) error {
			seen[e.AggregateID] = fmt.Sprint(e.Type, " ", e.SchemaVersion, " ", e.Data.Owner, " ", e.Data.IBAN)
			return nil
		}),
		projections.On(func(_ *projections.Store, e projections.Event[deposited]) error {
			seen[e.AggregateID] = fmt.Sprint(e.Type, " ", e.Data.Amount)
			return nil
		}),
	}}
	number := func(data []byte, n *int64) (err error) {
		*n, err = strconv.ParseInt(string(data), 16, 64)
		return err
	}
	set, err := projections.NewSet([]projections.EventType{
		projections.JSON[opened]("AccountOpened", openedHistory...),
		projections.Decode("MoneyDeposited", func(data []byte, p *deposited) error { return number(data, &p.Amount) },
			projections.Version("2"),
			projections.DecodeUpcast("", number, func(cents int64) (deposited, error) { return deposited{Amount: cents / 10}, nil })),
		projections.JSON[renamed]("AccountRenamed", projections.FormerName("AccountRetitled")),
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, typ, version, data, want string }{
		{"newest", "AccountOpened", "3", `{"owner_name":"Ada","iban":"NL1"}`, "AccountOpened 3 Ada NL1"},
		{"of the same shape", "AccountOpened", "3.1", `{"owner_name":"Ada","iban":"NL1"}`, "AccountOpened 3.1 Ada NL1"},
		{"one step", "AccountOpened", "2", `{"name":"Ada King"}`, "AccountOpened 2 Ada King none"},
		{"two steps", "AccountOpened", "1", `{"first":"Ada","last":"King"}`, "AccountOpened 1 Ada King none"},
		{"former name", "AccountCreated", "1", `{"first":"Ada","last":"King"}`, "AccountOpened 1 Ada King none"},
		{"name with a version", "AccountBegun", "", `{"name":"Ada King"}`, "AccountOpened  Ada King none"},
		{"other codec", "MoneyDeposited", "2", "1f", "MoneyDeposited 31"},
		{"other codec without a version", "MoneyDeposited", "", "1f", "MoneyDeposited 3"},
		{"nobody handles it", "AccountRetitled", "77", "{}", ""},
		{
			"undeclared", "AccountOpened", "4", "{}",
			`event 7 (AccountOpened, aggregate ID, sequence 7): version "4": this schema version is not declared; declared are "1", "2", "3", "3.1"`,
		},
		{
			"none in the store", "AccountOpened", "", "{}",
			`event 7 (AccountOpened, aggregate ID, sequence 7): version "": this schema version is not declared; declared are "1", "2", "3", "3.1"`,
		},
		{
			"payload of a step", "AccountCreated", "1", `{"first":7}`,
			`event 7 (AccountOpened, aggregate ID, sequence 7): version "1", stored as AccountCreated: decode into projections_test.openedV1: json: cannot unmarshal JSON number into Go string within "/first"`,
		},
		{
			"payload as it is now", "AccountOpened", "3", `{"iban":7}`,
			`event 7 (AccountOpened, aggregate ID, sequence 7): version "3": decode into projections_test.opened: json: cannot unmarshal JSON number into Go string within "/iban"`,
		},
		{
			"step that fails", "AccountOpened", "1", "{}",
			`event 7 (AccountOpened, aggregate ID, sequence 7): version "1": upcast from projections_test.openedV1 to projections_test.openedV2: nobody`,
		},
	} {
		id := uuid.New()
		e := ev(7, id, 7, c.typ, c.data)
		e.SchemaVersion = c.version
		_, err := apply(t.Context(), pool, set.Rebuild(), e)
		got := seen[e.AggregateID]
		if err != nil {
			got = strings.ReplaceAll(steadyJSON.Replace(err.Error()), id.String(), "ID")
		}
		if got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
	panics := ev(7, ada, 7, "AccountOpened", `{"first":"panic"}`)
	panics.SchemaVersion = "1"
	_, err = apply(t.Context(), pool, set.Rebuild(), panics)
	if err == nil || !strings.Contains(err.Error(), "upcast from projections_test.openedV1 to projections_test.openedV2: panic: at the disco (") ||
		!strings.Contains(err.Error(), "upcast_test.go:") {
		t.Errorf("a step that panics: %v", err)
	}
}

// What an application appends has the newest payload and the newest name.
func TestProjectHasNoFormerNames(t *testing.T) {
	t.Parallel()
	pool, _ := bank(t)
	types := append([]projections.EventType{projections.JSON[opened]("AccountOpened", openedHistory...)}, bankEvents[1:]...)
	set, err := projections.NewSet(types, accountsProjector)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		typ  string
		data any
		want string
	}{
		{"", opened{}, ""},
		{"AccountCreated", opened{}, "is a projections_test.opened, which is the payload of AccountOpened"},
		{"", openedV1{}, "no event type has the payload projections_test.openedV1"},
	} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return set.Project(t.Context(), projections.Pgx(tx), projections.New{
				Meta: projections.Meta{Position: 1, Sequence: 1, AggregateID: projections.UUID(uuid.New()), Type: c.typ}, Data: c.data,
			})
		})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %T: %v, want %q", c.typ, c.data, err, c.want)
		}
	}
}

func TestUpcastsThatDoNotFit(t *testing.T) {
	t.Parallel()
	type elsewhere struct{}
	v1, v2 := projections.Upcast("1", openedV1toV2), projections.Upcast("2", openedV2toV3)
	back := projections.Upcast("2", func(openedV2) (openedV1, error) { return openedV1{}, nil })
	v3 := projections.Version("3")
	for _, c := range []struct {
		name    string
		options []projections.TypeOption
		want    string
	}{
		{"good", []projections.TypeOption{v2, v1, v3}, ""},
		{"nil", []projections.TypeOption{nil}, "option 0 is nil"},
		{"no version", []projections.TypeOption{v1, v2}, "which version is a projections_test.opened? Add projections.Version"},
		{"no version for a name", []projections.TypeOption{projections.VersionNamed("1", "A")}, "which version is a projections_test.opened? Add projections.Version"},
		{"gap", []projections.TypeOption{v1, v3}, `the upcast of version "1" ends at projections_test.openedV2, from where nothing leads on to projections_test.opened`},
		{
			"one gap for two",
			[]projections.TypeOption{v1, v3, projections.Upcast("2", func(openedV2) (elsewhere, error) { return elsewhere{}, nil })},
			`the upcast of version "2" ends at projections_test.elsewhere, from where nothing leads on to projections_test.opened`,
		},
		{
			"circle",
			[]projections.TypeOption{v1, back, v3},
			`the upcast of version "1" leads in a circle, back to projections_test.openedV1` + "\n" +
				`event type Opened: the upcast of version "2" leads in a circle, back to projections_test.openedV2`,
		},
		{
			"to itself",
			[]projections.TypeOption{v3, projections.Upcast("1", func(e openedV1) (openedV1, error) { return e, nil })},
			`the upcast of version "1" leads in a circle, back to projections_test.openedV1`,
		},
		{"two from one shape", []projections.TypeOption{v1, v2, v3, projections.Upcast("1.1", openedV1toV2)}, `two upcasts begin at projections_test.openedV1, of versions "1" and "1.1": only one can go on from there`},
		{"a version twice", []projections.TypeOption{v1, v2, v3, projections.Version("1")}, `version "1" is declared twice`},
		{"a step twice", []projections.TypeOption{v1, v1, v2, v3}, `version "1" is declared twice`},
		{
			"from the newest",
			[]projections.TypeOption{v3, projections.Upcast("1", func(e opened) (opened, error) { return e, nil })},
			`the upcast of version "1" begins at projections_test.opened, which is the payload as it is now`,
		},
		{"nil upcast", []projections.TypeOption{v3, projections.Upcast[openedV2, opened]("2", nil)}, `the upcast of version "2" is nil`},
		{"nil decode", []projections.TypeOption{v3, projections.DecodeUpcast("2", nil, openedV2toV3)}, `the upcast of version "2" has a nil decode`},
		{"name of no version", []projections.TypeOption{v3, projections.VersionNamed("4", "OpenedV4")}, `name OpenedV4 stands for version "4", which is not declared`},
		{"name of another type", []projections.TypeOption{projections.FormerName("Closed")}, ""},
	} {
		_, err := projections.NewSet([]projections.EventType{projections.JSON[opened]("Opened", c.options...)})
		got := ""
		if err != nil {
			got = strings.TrimPrefix(err.Error(), "event type Opened: ")
		}
		if got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
	_, err := projections.NewSet([]projections.EventType{
		projections.Decode("Opened", func([]byte, *opened) error { return nil }, v1, v2, v3),
		projections.JSON[closed]("Closed", projections.FormerName("Opened", "")),
	})
	want := `event type Opened: it is made with Decode, and the upcast of version "1" expects JSON: use projections.DecodeUpcast
event type Opened is declared twice, for projections_test.opened and projections_test.closed
an event type of projections_test.closed has no name`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// Event types that were stored in other shapes, under other names, and with another codec.
func ExampleUpcast() {
	type OpenedV1 struct{ First, Last string }
	type OpenedV2 struct{ Name string }
	type OpenedV3 struct{ Owner, Branch string }

	set, err := projections.NewSet([]projections.EventType{
		projections.JSON[OpenedV3]("AccountOpened",
			projections.Version("3"),
			projections.Upcast("1", func(e OpenedV1) (OpenedV2, error) { return OpenedV2{Name: e.First + " " + e.Last}, nil }),
			projections.Upcast("2", func(e OpenedV2) (OpenedV3, error) { return OpenedV3{Owner: e.Name, Branch: "unknown"}, nil }),
			projections.FormerName("AccountCreated"),
		),
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("known:", set.Known())
	// Output: known: [AccountCreated AccountOpened]
}

// Versions that do not lead to the newest payload are found before anything is read.
func ExampleVersion() {
	type PaidV1 struct{ Cents int64 }
	type Paid struct{ Amount string }

	_, err := projections.NewSet([]projections.EventType{
		projections.JSON[Paid]("Paid",
			projections.Version("2", "3"), // both are a Paid
			projections.Upcast("", func(e PaidV1) (Paid, error) { return Paid{Amount: fmt.Sprint(e.Cents, " cents")}, nil }),
			projections.Upcast("2", func(e Paid) (Paid, error) { return e, nil }),
		),
	})
	fmt.Println(err)
	// Output:
	// event type Paid: the upcast of version "2" begins at projections_test.Paid, which is the payload as it is now
	// event type Paid: version "2" is declared twice
}

// Of version 1 the payload was not JSON.
func ExampleDecodeUpcast() {
	type Paid struct{ Cents int64 }

	set, err := projections.NewSet([]projections.EventType{
		projections.JSON[Paid]("Paid", projections.Version("2"), projections.DecodeUpcast("1",
			func(data []byte, text *string) error { *text = string(data); return nil },
			func(text string) (paid Paid, err error) {
				paid.Cents, err = strconv.ParseInt(text, 10, 64)
				return paid, err
			})),
	})
	fmt.Println(set.Declared()[0].Versions, err)
	// Output: version ["2"], version "1" from string to projections_test.Paid <nil>
}

func ExampleFormerName() {
	type Opened struct{ Owner string }

	set, err := projections.NewSet([]projections.EventType{
		projections.JSON[Opened]("AccountOpened", projections.FormerName("AccountCreated", "AccountBegun")),
	})
	fmt.Println(set.Declared()[0].Former, err)
	// Output: [AccountCreated AccountBegun] <nil>
}

// A store without schema versions, whose names tell them.
func ExampleVersionNamed() {
	type OpenedV1 struct{ First, Last string }
	type OpenedV2 struct{ Name string }

	set, err := projections.NewSet([]projections.EventType{
		projections.JSON[OpenedV2]("AccountOpenedV2",
			projections.Version(""),
			projections.VersionNamed("1", "AccountOpened"),
			projections.Upcast("1", func(e OpenedV1) (OpenedV2, error) { return OpenedV2{Name: e.First + " " + e.Last}, nil }),
		),
	})
	fmt.Println(set.Known(), err)
	// Output: [AccountOpened AccountOpenedV2] <nil>
}

// What a set knows of event types, in the words of their declarations.
func ExampleSet_Declared() {
	type Opened struct{ Owner string }
	type OpenedV1 struct{ Name string }

	set, err := projections.NewSet([]projections.EventType{
		projections.Ignore("NewsletterSent"),
		projections.JSON[Opened]("AccountOpened",
			projections.Version("2"),
			projections.Upcast("1", func(e OpenedV1) (Opened, error) { return Opened{Owner: e.Name}, nil }),
			projections.FormerName("AccountCreated"),
		),
	})
	if err != nil {
		panic(err)
	}
	for _, d := range set.Declared() {
		fmt.Println(d.Name, d.Former, d.Ignored, d.Versions)
	}
	// Output:
	// AccountOpened [AccountCreated] false version ["2"], version "1" from projections_test.OpenedV1 to projections_test.Opened, formerly AccountCreated
	// NewsletterSent [] true
}
