package projections_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// Shopping lists: an aggregate is a list, a row is a thing on it.
type (
	Added struct{ Thing, Shop string }
	// Checked stands for whatever an example does to the rows.
	Checked struct{}

	ThingKey struct {
		List uuid.UUID
		No   int64
	}
	Thing struct {
		bun.BaseModel `bun:"table:things"`
		List          uuid.UUID `bun:"list,pk" view:"aggregate"`
		No            int64     `bun:"no,pk"`
		Thing         string    `bun:"thing"`
		Shop          string    `bun:"shop"`
		Bought        bool      `bun:"bought"`
	}
)

var (
	things = projections.NewRows(func(t *Thing) ThingKey { return ThingKey{t.List, t.No} })
	byShop = projections.NewIndex(things, "shop", "no", func(t *Thing) (string, int64) { return t.Shop, t.No })

	listEvents = []projections.EventType{projections.JSON[Added]("ThingAdded"), projections.JSON[Checked]("ListChecked")}
	list       = uuid.MustParse("11570000-0000-4000-8000-000000000000")
	otherList  = uuid.MustParse("0741570a-0000-4000-8000-000000000000")
)

// shopping is a projector of lists; checked is what it does after tea, milk and soap were added.
func shopping(checked func(s *projections.Store, list uuid.UUID) error) *projections.Projector {
	return &projections.Projector{
		Name:   "things",
		Tables: []projections.Table{things},
		Handlers: []projections.Handler{
			projections.On(func(s *projections.Store, e projections.Event[Added]) error {
				return things.Create(s, Thing{List: e.AggregateID.UUID(), No: e.Sequence, Thing: e.Data.Thing, Shop: e.Data.Shop})
			}),
			projections.On(func(s *projections.Store, e projections.Event[Checked]) error {
				return checked(s, e.AggregateID.UUID())
			}),
		},
	}
}

// shop adds tea, milk and soap to a list, checks it, and prints the rows.
func shop(checked func(s *projections.Store, list uuid.UUID) error) {
	set, err := projections.NewSet(listEvents, shopping(checked))
	if err != nil {
		panic(err)
	}
	memory := set.Memory()
	for i, data := range []any{Added{"tea", "market"}, Added{"milk", "market"}, Added{"soap", "drugstore"}, Checked{}} {
		meta := projections.Meta{Position: int64(i + 1), AggregateID: projections.UUID(list), Sequence: int64(i + 1)}
		if err := memory.Project(context.Background(), projections.New{Meta: meta, Data: data}); err != nil {
			fmt.Println(err)
		}
	}
	printThings(memory)
}

func printThings(memory *projections.Memory) {
	_, rows, err := memory.Rows(reflect.TypeFor[Thing]())
	if err != nil {
		panic(err)
	}
	for _, row := range rows {
		t := row.Value.(Thing)
		bought := ""
		if t.Bought {
			bought = ", bought"
		}
		fmt.Printf("%d %s (%s%s)\n", t.No, t.Thing, t.Shop, bought)
	}
}

func ExampleRows_Create() {
	shop(func(s *projections.Store, list uuid.UUID) error {
		return things.Create(s, Thing{List: list, No: 4, Thing: "rye", Shop: "baker"}, Thing{List: list, No: 5, Thing: "nuts", Shop: "market"})
	})
	// Output:
	// 1 tea (market)
	// 2 milk (market)
	// 3 soap (drugstore)
	// 4 rye (baker)
	// 5 nuts (market)
}

// Of several rows all are created or none.
func ExampleRows_Create_exists() {
	shop(func(s *projections.Store, list uuid.UUID) error {
		return things.Create(s, Thing{List: list, No: 4, Thing: "rye"}, Thing{List: list, No: 1, Thing: "nuts"})
	})
	// Output:
	// projector things: event 4 (ListChecked, aggregate 11570000-0000-4000-8000-000000000000, sequence 4): things {11570000-0000-4000-8000-000000000000 1}: a row with this key exists
	// 1 tea (market)
	// 2 milk (market)
	// 3 soap (drugstore)
}

func ExampleRows_Put() {
	shop(func(s *projections.Store, list uuid.UUID) error {
		return things.Put(s, Thing{List: list, No: 3, Thing: "shampoo", Shop: "drugstore"})
	})
	// Output:
	// 1 tea (market)
	// 2 milk (market)
	// 3 shampoo (drugstore)
}

func ExampleRows_Get() {
	shop(func(s *projections.Store, list uuid.UUID) error {
		_, err := things.Get(s, ThingKey{list, 9})
		fmt.Println(errors.Is(err, projections.ErrNotFound))
		t, err := things.Get(s, ThingKey{list, 1}) // a copy
		t.Bought = true
		return err
	})
	// Output:
	// true
	// 1 tea (market)
	// 2 milk (market)
	// 3 soap (drugstore)
}

// Handlers see the rows of their event's aggregate, and no others: aggregates are replayed in any order.
func ExampleRows_Get_foreign() {
	byList := projections.NewRows(func(l *List) uuid.UUID { return l.ID })
	set, err := projections.NewSet(listEvents, &projections.Projector{
		Name: "lists", Tables: []projections.Table{byList},
		Handlers: []projections.Handler{projections.On(func(s *projections.Store, e projections.Event[Checked]) error {
			_, err := byList.Get(s, otherList)
			return err
		})},
	})
	if err != nil {
		panic(err)
	}
	err = set.Memory().Project(context.Background(), projections.New{
		Meta: projections.Meta{Position: 1, AggregateID: projections.UUID(list), Sequence: 1}, Data: Checked{},
	})
	fmt.Println(errors.Is(err, projections.ErrForeign))
	// Output: true
}

// List is a list as a whole.
type List struct {
	bun.BaseModel `bun:"table:lists"`
	ID            uuid.UUID `bun:"id,pk"`
}

func ExampleRows_Find() {
	shop(func(s *projections.Store, list uuid.UUID) error {
		t, ok, err := things.Find(s, ThingKey{list, 9})
		fmt.Printf("%q %v %v\n", t.Thing, ok, err)
		return nil
	})
	// Output:
	// "" false <nil>
	// 1 tea (market)
	// 2 milk (market)
	// 3 soap (drugstore)
}

func ExampleRows_Update() {
	shop(func(s *projections.Store, list uuid.UUID) error {
		return things.Update(s, ThingKey{list, 2}, func(t *Thing) { t.Bought = true })
	})
	// Output:
	// 1 tea (market)
	// 2 milk (market, bought)
	// 3 soap (drugstore)
}

func ExampleRows_Upsert() {
	shop(func(s *projections.Store, list uuid.UUID) error {
		return things.Upsert(s, ThingKey{list, 4}, func(t *Thing, exists bool) {
			if !exists {
				t.List, t.No, t.Thing, t.Shop = list, 4, "rye", "baker"
			}
			t.Bought = true
		})
	})
	// Output:
	// 1 tea (market)
	// 2 milk (market)
	// 3 soap (drugstore)
	// 4 rye (baker, bought)
}

func ExampleRows_Delete() {
	shop(func(s *projections.Store, list uuid.UUID) error { return things.Delete(s, ThingKey{list, 2}) })
	// Output:
	// 1 tea (market)
	// 3 soap (drugstore)
}

func ExampleRows_All() {
	shop(func(s *projections.Store, list uuid.UUID) error {
		for t, err := range things.All(s) {
			if err != nil {
				return err
			}
			if t.Thing == "milk" {
				if err := things.Delete(s, ThingKey{list, t.No}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	// Output:
	// 1 tea (market)
	// 3 soap (drugstore)
}

func ExampleRows_UpdateAll() {
	shop(func(s *projections.Store, _ uuid.UUID) error {
		n, err := things.UpdateAll(s, func(t *Thing) { t.Bought = true })
		fmt.Println(n, "rows")
		return err
	})
	// Output:
	// 3 rows
	// 1 tea (market, bought)
	// 2 milk (market, bought)
	// 3 soap (drugstore, bought)
}

func ExampleRows_DeleteAll() {
	shop(func(s *projections.Store, _ uuid.UUID) error {
		n, err := things.DeleteAll(s)
		fmt.Println(n, "rows")
		return err
	})
	// Output: 3 rows
}

func ExampleIndex_Last() {
	shop(func(s *projections.Store, _ uuid.UUID) error {
		first, _, err := byShop.First(s, "market")
		if err != nil {
			return err
		}
		last, ok, err := byShop.Last(s, "market")
		fmt.Println(first.Thing, last.Thing, ok)
		return err
	})
	// Output:
	// tea milk true
	// 1 tea (market)
	// 2 milk (market)
	// 3 soap (drugstore)
}

func ExampleIndex_First() {
	shop(func(s *projections.Store, _ uuid.UUID) error {
		t, ok, err := byShop.First(s, "baker")
		fmt.Printf("%q %v\n", t.Thing, ok)
		return err
	})
	// Output:
	// "" false
	// 1 tea (market)
	// 2 milk (market)
	// 3 soap (drugstore)
}

func ExampleIndex_All() {
	shop(func(s *projections.Store, _ uuid.UUID) error {
		for t, err := range byShop.All(s, "market") {
			if err != nil {
				return err
			}
			fmt.Println("at the market:", t.Thing)
		}
		return nil
	})
	// Output:
	// at the market: tea
	// at the market: milk
	// 1 tea (market)
	// 2 milk (market)
	// 3 soap (drugstore)
}

func ExampleIndex_Update() {
	shop(func(s *projections.Store, _ uuid.UUID) error {
		_, err := byShop.Update(s, "market", func(t *Thing) { t.Bought = true })
		return err
	})
	// Output:
	// 1 tea (market, bought)
	// 2 milk (market, bought)
	// 3 soap (drugstore)
}

func ExampleIndex_Delete() {
	shop(func(s *projections.Store, _ uuid.UUID) error {
		_, err := byShop.Delete(s, "market")
		return err
	})
	// Output: 3 soap (drugstore)
}

// A Memory takes stored events, as a rebuild reads them, and lists rows.
func ExampleMemory() {
	set, err := projections.NewSet(listEvents, shopping(nil))
	if err != nil {
		panic(err)
	}
	memory := set.Memory()
	err = memory.Apply(context.Background(), &projections.Raw{
		Position: 1, AggregateID: projections.UUID(list), Sequence: 1, Type: []byte("ThingAdded"), Data: []byte(`{"Thing":"tea","Shop":"market"}`),
	})
	if err != nil {
		panic(err)
	}
	printThings(memory)

	row, err := memory.Row(Thing{List: list, No: 7})
	fmt.Println(row.Key, err)
	// Output:
	// 1 tea (market)
	// {11570000-0000-4000-8000-000000000000 7} <nil>
}

func ExampleDecode() {
	upper := projections.Decode("ThingAdded", func(data []byte, p *Added) error {
		p.Thing, p.Shop, _ = strings.Cut(string(data), "@")
		return nil
	})
	set, err := projections.NewSet([]projections.EventType{upper, projections.JSON[Checked]("ListChecked")}, shopping(nil))
	if err != nil {
		panic(err)
	}
	memory := set.Memory()
	err = memory.Apply(context.Background(), &projections.Raw{
		Position: 1, AggregateID: projections.UUID(list), Sequence: 1, Type: []byte("ThingAdded"), Data: []byte("tea@market"),
	})
	if err != nil {
		panic(err)
	}
	printThings(memory)
	// Output: 1 tea (market)
}

func ExampleNewSet() {
	set, err := projections.NewSet(append(listEvents, projections.Ignore("ListPrinted")), shopping(nil))
	if err != nil {
		panic(err)
	}
	fmt.Println("handled", set.Types())
	fmt.Println("known  ", set.Known())
	stored, err := set.Stored(projections.New{Data: Added{}})
	fmt.Println("stored ", stored.Type, err)
	for _, p := range set.Projectors() {
		fmt.Println("projector", p.ProjectorName(), "of", p.Tables[0].TableName())
	}

	_, err = projections.NewSet(listEvents[:1], shopping(nil))
	fmt.Println(err)
	// Output:
	// handled [ListChecked ThingAdded]
	// known   [ListChecked ListPrinted ThingAdded]
	// stored  ThingAdded <nil>
	// projector things of things
	// projector things handles projections_test.Checked, but no event type decodes to it: add projections.JSON[projections_test.Checked]("…") to the events
}

func ExampleSet_Only() {
	other := &projections.Projector{Name: "empty lists", Tables: []projections.Table{projections.NewRows(func(l *List) uuid.UUID { return l.ID })}}
	set, err := projections.NewSet(listEvents, shopping(nil), other)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(set.Projectors()), set.Types())
	fmt.Println(len(set.Only(other).Projectors()), set.Only(other).Types())
	// Output:
	// 2 [ListChecked ThingAdded]
	// 1 []
}

func ExampleSQLTable() {
	totals := &projections.SQLTable{
		Name: "list_totals", Aggregate: "list",
		Query: "select aggregate_id as list, count(*) as things from %EVENTS% e where event_type = 'ThingAdded' group by 1",
	}
	set, err := projections.NewSet(listEvents, &projections.Projector{Name: "totals", Tables: []projections.Table{totals}})
	if err != nil {
		panic(err)
	}
	for _, t := range set.In("shop", "_2").SQLTables() {
		fmt.Println(t.Relation, "of", t.Projector, set.OnlySQL())
	}
	// Output: "shop"."list_totals_2" of totals true
}

func ExampleUUID() {
	id := projections.UUID(list) // of any type that is a [16]byte
	fmt.Println(id, id.IsUUID(), id.IsZero(), id.UUID() == list)
	// Output: 11570000-0000-4000-8000-000000000000 true false true
}

func ExampleText() {
	id := projections.Text("list-7")
	fmt.Println(id, id.IsUUID(), id.Compare(projections.Text("list-8")))
	// Output: list-7 false -1
}

func ExampleEventError() {
	set, err := projections.NewSet(listEvents, shopping(nil))
	if err != nil {
		panic(err)
	}
	err = set.Memory().Apply(context.Background(), &projections.Raw{
		Position: 9, AggregateID: projections.UUID(list), Sequence: 4, Type: []byte("ThingAdded"), Data: []byte(`{"Thing": 5}`),
	})
	failed, ok := errors.AsType[*projections.EventError](err)
	fmt.Println(ok, failed.Position, failed.Type, failed.Sequence)
	// Output: true 9 ThingAdded 4
}
