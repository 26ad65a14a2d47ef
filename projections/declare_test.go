package projections_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// mustPanic returns what fn panics with.
func mustPanic(t *testing.T, fn func()) (text string) {
	t.Helper()
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprint(v)
			return
		}
		t.Error("no panic")
	}()
	fn()
	return ""
}

type embedded struct {
	City string `bun:"city"`
}

func TestNewRowsRefuses(t *testing.T) {
	t.Parallel()
	type (
		noKey struct {
			ID uuid.UUID `view:"aggregate"`
		}
		twoAggregates struct {
			ID    uuid.UUID `bun:",pk" view:"aggregate"`
			Other uuid.UUID `view:"aggregate"`
		}
		numberAggregate struct {
			ID int64 `bun:",pk" view:"aggregate"`
		}
		unknownTag struct {
			ID  uuid.UUID `bun:",pk"`
			Sum int64     `view:"sum"`
		}
		defaulted struct {
			ID  uuid.UUID `bun:",pk"`
			Sum int64     `bun:",nullzero,default:7"`
		}
		softDelete struct {
			ID   uuid.UUID `bun:",pk"`
			Gone time.Time `bun:",soft_delete,nullzero"`
		}
		byPointer struct {
			ID uuid.UUID `bun:",pk"`
			*embedded
		}
		schemaName struct {
			bun.BaseModel `bun:"table:app.rows"`
			ID            uuid.UUID `bun:",pk"`
		}
		numbered struct {
			No    int64     `bun:",pk,autoincrement"`
			Owner uuid.UUID `view:"aggregate"`
		}
		pointerKey struct {
			ID uuid.UUID `bun:",pk"`
			At time.Time
		}
		packed struct {
			ID  uuid.UUID      `bun:",pk"`
			Doc map[string]int `bun:",msgpack"`
		}
	)
	for _, c := range []struct {
		name, want string
		declare    func()
	}{
		{"no struct", "structs, not int", func() { projections.NewRows(func(r *int) int { return *r }) }},
		{"no primary key", "noKey: no primary key", func() { projections.NewRows(func(r *noKey) uuid.UUID { return r.ID }) }},
		{"two aggregates", "columns id and other are both tagged", func() { projections.NewRows(func(r *twoAggregates) uuid.UUID { return r.ID }) }},
		{"number as aggregate", "column id is int64: an aggregate's id is", func() { projections.NewRows(func(r *numberAggregate) int64 { return r.ID }) }},
		{"unknown tag", `column sum: unknown tag view:"sum"`, func() { projections.NewRows(func(r *unknownTag) uuid.UUID { return r.ID }) }},
		{"nullzero and default", "column sum has nullzero and default", func() { projections.NewRows(func(r *defaulted) uuid.UUID { return r.ID }) }},
		{"soft delete", "column gone: soft delete", func() { projections.NewRows(func(r *softDelete) uuid.UUID { return r.ID }) }},
		{"embedded by pointer", "column city is in a struct embedded by pointer", func() { projections.NewRows(func(r *byPointer) uuid.UUID { return r.ID }) }},
		{"schema in the model", "app.rows names a schema", func() { projections.NewRows(func(r *schemaName) uuid.UUID { return r.ID }) }},
		{"numbered key", "the key reads column no, which the database numbers", func() { projections.NewRows(func(r *numbered) int64 { return r.No }) }},
		{"key with a pointer", "holds a *time.Location", func() { projections.NewRows(func(r *pointerKey) time.Time { return r.At }) }},
		{"msgpack", "column doc: msgpack", func() { projections.NewRows(func(r *packed) uuid.UUID { return r.ID }) }},
		{"index over a numbered column", "an index reads column no", func() {
			rows := projections.NewRows(func(r *numbered) uuid.UUID { return r.Owner })
			projections.NewIndex(rows, "owner", "no", func(r *numbered) (uuid.UUID, int64) { return r.Owner, r.No })
		}},
		{"index over no column", "names column nope", func() {
			rows := projections.NewRows(func(r *numbered) uuid.UUID { return r.Owner })
			projections.NewIndex(rows, "owner", "nope", func(r *numbered) (uuid.UUID, int64) { return r.Owner, 0 })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := mustPanic(t, c.declare); !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestNewSetReportsAll(t *testing.T) {
	t.Parallel()
	type unknown struct{}
	handle := projections.On(func(*projections.Store, projections.Event[unknown]) error { return nil })
	types := []projections.EventType{
		nil,
		projections.JSON[opened]("Opened"), projections.JSON[renamed]("Opened"), projections.JSON[closed](""),
		projections.Ignore("Opened", "Old", "Old"),
	}
	a := &projections.Projector{Name: "a", Tables: []projections.Table{accounts}, Handlers: []projections.Handler{handle, handle}}
	b := &projections.Projector{
		Name:     "b",
		Tables:   []projections.Table{accounts, transactions, transactions, nil},
		Handlers: []projections.Handler{nil, projections.On[opened](nil)},
	}
	_, err := projections.NewSet(types, a, b, &projections.Projector{Name: "a"}, &projections.Projector{}, nil)
	want := `event type 0 is nil
event type Opened is declared twice, for projections_test.opened and projections_test.renamed
an event type of projections_test.closed has no name
event type Opened is both decoded and ignored
event type Old is ignored twice
projector a handles projections_test.unknown, but no event type decodes to it: add projections.JSON[projections_test.unknown]("…") to the events
table accounts has two owners, projectors a and b
projector b has table transactions twice
projector b: table 3 is nil
projector b: handler 0 is nil
projector b: handler 1 is nil
two projectors are named a
projector a has no tables
projector 3 has no name
projector  has no tables
projector 4 is nil`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestSetNames(t *testing.T) {
	t.Parallel()
	set, err := projections.NewSet(bankEvents, accountsProjector, transactionsProjector)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		got  []string
		want string
	}{
		{"known", set.Known(), "[AccountClosed AccountOpened AccountRenamed MoneyDeposited StatementPrinted]"},
		{"handled", set.Types(), "[AccountClosed AccountOpened AccountRenamed MoneyDeposited]"},
		{"handled by one", set.Only(transactionsProjector).In("app", "_2").Types(), "[MoneyDeposited]"},
	} {
		if fmt.Sprint(c.got) != c.want {
			t.Errorf("%s: %v, want %s", c.name, c.got, c.want)
		}
	}
	if got := mustPanic(t, func() { set.Only(&projections.Projector{Name: "x"}) }); !strings.Contains(got, "projector x is not of the set") {
		t.Error(got)
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	u := uuid.MustParse("01020304-0506-0708-090a-0b0c0d0e0f10")
	nilID, none := projections.UUID(uuid.UUID{}), projections.ID{}
	switch {
	case projections.UUID(u).String() != u.String(), projections.UUID(u).UUID() != u, !projections.UUID(u).IsUUID():
		t.Error("a UUID is not itself")
	case nilID.IsZero(), nilID == none, nilID.String() != uuid.Nil.String():
		t.Error("the nil UUID is no id")
	case projections.Text("").IsZero(), projections.Text("a").IsUUID(), projections.Text("a").String() != "a":
		t.Error("a text is not itself")
	case !none.IsZero(), none.String() != "":
		t.Error("the zero ID is an id")
	}
}

// A projector has tables of one kind, and an application cannot project into one that a query fills.
func TestSQLTables(t *testing.T) {
	t.Parallel()
	type row struct {
		bun.BaseModel `bun:"table:rows"`
		ID            uuid.UUID `bun:"id,pk"`
	}
	type event struct{}
	types := []projections.EventType{projections.JSON[event]("Event")}
	rows := projections.NewRows(func(r *row) uuid.UUID { return r.ID })
	handler := projections.On(func(*projections.Store, projections.Event[event]) error { return nil })
	table := &projections.SQLTable{Name: "numbers", Aggregate: "id", Query: "select aggregate_id as id from %EVENTS%"}
	for want, p := range map[string]*projections.Projector{
		"table rows has rows that handlers write": {Name: "p", Tables: []projections.Table{table, rows}},
		"SQL tables and handlers":                 {Name: "p", Tables: []projections.Table{table}, Handlers: []projections.Handler{handler}},
		"SQL table 0 has no name":                 {Name: "p", Tables: []projections.Table{&projections.SQLTable{}}},
		"names no column":                         {Name: "p", Tables: []projections.Table{&projections.SQLTable{Name: "t", Query: "%EVENTS%"}}},
		"has no %EVENTS%":                         {Name: "p", Tables: []projections.Table{&projections.SQLTable{Name: "t", Aggregate: "id", Query: "select 1"}}},
		"table 1 is nil":                          {Name: "p", Tables: []projections.Table{table, (*projections.SQLTable)(nil)}},
	} {
		if _, err := projections.NewSet(types, p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	inSQL := &projections.Projector{Name: "numbers", Tables: []projections.Table{table}}
	inGo := &projections.Projector{Name: "rows", Tables: []projections.Table{rows}, Handlers: []projections.Handler{handler}}
	set, err := projections.NewSet(types, inSQL, inGo)
	if err != nil {
		t.Fatal(err)
	}
	err = set.In("app", "").Project(t.Context(), projections.Pgx(nil), projections.New{Data: event{}})
	if !errors.Is(err, projections.ErrSQLTable) || !strings.Contains(err.Error(), "app.numbers of projector numbers") {
		t.Errorf("projected with SQL tables: %v", err)
	}
	if set.OnlySQL() || !set.Only(inSQL).OnlySQL() || set.Only(inGo).OnlySQL() {
		t.Error("which sets have SQL tables alone?")
	}
}
