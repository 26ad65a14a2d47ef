package projections_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

// The tables of this file are named, typed or tagged in a way that a statement of ours could trip over.
type (
	number  int64 // prints what SQL does not read
	oddlyID struct {
		bun.BaseModel `bun:"table:a"` // also a name in the statement that reads last rows
		No            number          `bun:"no,pk"`
		R             string          `bun:"r" view:"aggregate"`
		Order         int64           `bun:"order"`
		U             []string        `bun:"u"`
		Sum           int64           `bun:"MixedCase"`
	}
	keyless struct {
		bun.BaseModel `bun:"table:path"` // also a type of PostgreSQL
		Agg           uuid.UUID          `bun:"agg,pk" view:"aggregate"` // it is not the key
		No            int64              `bun:"no"`
		N             int64              `bun:"n"`
	}
	keylessKey struct {
		Agg uuid.UUID
		No  int64
	}
)

func (n number) String() string { return fmt.Sprintf("No. %d", int64(n)) }

var numbers = projections.NewRows(func(r *oddlyID) number { return r.No })

var numbersByOrder = projections.NewIndex(numbers, "r", "order", func(r *oddlyID) (string, int64) { return r.R, r.Order })

func oddSet(t *testing.T, table projections.Table, handle func(s *projections.Store, e projections.Event[deposited]) error) *projections.Set {
	t.Helper()
	set, err := projections.NewSet([]projections.EventType{projections.JSON[deposited]("D")}, &projections.Projector{
		Name: "odd", Tables: []projections.Table{table}, Handlers: []projections.Handler{projections.On(handle)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// A catch-up finds the last rows, asks for keys and updates rows whatever tables, columns and key types are called.
func TestOddNames(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, nil)
	if _, err := pool.Exec(t.Context(), `
		create table a (gone int, "MixedCase" bigint not null, u text[], "order" bigint not null, no bigint primary key, id int default 7, r char(36) not null);
		alter table a drop column gone`); err != nil {
		t.Fatal(err)
	}
	set := oddSet(t, numbers, func(s *projections.Store, e projections.Event[deposited]) error {
		id := e.AggregateID.String()
		if e.Data.Amount > 0 {
			_, err := numbers.UpdateAll(s, func(r *oddlyID) { r.U = []string{`"`, "}"} })
			return err
		}
		last, _, err := numbersByOrder.Last(s, id)
		if err != nil {
			return err
		}
		return numbers.Create(s, oddlyID{No: number(e.Position), R: id, Order: last.Order + 1, Sum: last.Sum + 10})
	})
	if _, err := apply(t.Context(), pool, set.Rebuild(), ev(1, ada, 1, "D", "{}"), ev(2, ada, 2, "D", "{}"), ev(3, bob, 1, "D", "{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := apply(t.Context(), pool, set.CatchUp(), ev(4, ada, 3, "D", "{}"), ev(5, bob, 2, "D", "{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := apply(t.Context(), pool, set.CatchUp(), ev(6, bob, 3, "D", `{"amount":1}`)); err != nil {
		t.Fatal(err)
	}
	want := `1:1:10: 2:2:20: 3:1:10:",} 4:3:30: 5:2:20:",}`
	if got := text(t, pool, `select string_agg(concat_ws(':', no, "order", "MixedCase", coalesce(array_to_string(u, ','), '')), ' ' order by no) from a`); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Fields tagged pk that are not the key are noticed before a row overwrites another one.
func TestPrimaryKeyThatIsNone(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, nil)
	if _, err := pool.Exec(t.Context(), "create table path (agg uuid not null, no bigint not null, n bigint not null)"); err != nil {
		t.Fatal(err)
	}
	rows := projections.NewRows(func(r *keyless) keylessKey { return keylessKey{r.Agg, r.No} })
	set := oddSet(t, rows, func(s *projections.Store, e projections.Event[deposited]) error {
		key := keylessKey{e.AggregateID.UUID(), e.Position % 2}
		return rows.Upsert(s, key, func(r *keyless, _ bool) { r.Agg, r.No, r.N = key.Agg, key.No, e.Position })
	})
	if _, err := apply(t.Context(), pool, set.CatchUp(), ev(1, ada, 1, "D", "{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := apply(t.Context(), pool, set.CatchUp(), ev(3, ada, 2, "D", "{}")); err != nil {
		t.Fatal(err) // one row: nothing is wrong yet
	}
	if _, err := apply(t.Context(), pool, set.CatchUp(), ev(4, ada, 3, "D", "{}")); err != nil {
		t.Fatal(err)
	}
	_, err := apply(t.Context(), pool, set.CatchUp(), ev(5, ada, 4, "D", "{}"), ev(6, ada, 5, "D", "{}"))
	if err == nil || !strings.Contains(err.Error(), "are not its key") {
		t.Errorf("two rows of one primary key: %v", err)
	}
	if got := text(t, pool, "select string_agg(concat_ws('-', no, n), ' ' order by no) from path"); got != "0-4 1-3" {
		t.Errorf("rows %s", got)
	}
}

// Of rows that are alike in the order, the one with the greatest key is the last, however they lie in the table.
func TestLastOfTies(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, nil)
	if _, err := pool.Exec(t.Context(), `
		create table a (no bigint primary key, r text not null, "order" bigint not null, u text[], "MixedCase" bigint not null);
		create index on a (r, "order")`); err != nil {
		t.Fatal(err)
	}
	for i, no := range []int{1, 2, 4, 3} {
		if _, err := pool.Exec(t.Context(), `insert into a values ($1, $2, 1, null, $1)`, no, []uuid.UUID{ada, bob}[i/2].String()); err != nil {
			t.Fatal(err)
		}
	}
	set := oddSet(t, numbers, func(s *projections.Store, e projections.Event[deposited]) error {
		id := e.AggregateID.String()
		last, _, err := numbersByOrder.Last(s, id)
		if err != nil {
			return err
		}
		return numbers.Create(s, oddlyID{No: number(e.Position), R: id, Order: last.Order + 1, Sum: 10 * last.Sum})
	})
	if _, err := apply(t.Context(), pool, set.CatchUp(), ev(5, ada, 1, "D", "{}"), ev(6, bob, 1, "D", "{}")); err != nil {
		t.Fatal(err)
	}
	if got := text(t, pool, `select string_agg(concat_ws(':', no, "MixedCase"), ' ' order by no) from a where no > 4`); got != "5:20 6:40" {
		t.Errorf("got %s, want the tens of the greatest keys", got)
	}
}

// A Create of several rows that fails at the second leaves none, whether or not it could know that the first was taken.
func TestCreateOfSeveralWithTheFirstTaken(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, nil)
	if _, err := pool.Exec(t.Context(), `
		create table a (no bigint primary key, r text not null, "order" bigint not null, u text[], "MixedCase" bigint not null)`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "insert into a values (1, $1, 1, null, 1)", ada.String()); err != nil {
		t.Fatal(err)
	}
	var seen string
	set := oddSet(t, numbers, func(s *projections.Store, e projections.Event[deposited]) error {
		row := oddlyID{No: 2, R: e.AggregateID.String()}
		if err := numbers.Create(s, row); err != nil {
			return err
		}
		first := row
		first.No = 1
		seen = fmt.Sprint(numbers.Create(s, first, row))
		return nil
	})
	if _, err := apply(t.Context(), pool, set.CatchUp(), ev(5, ada, 1, "D", "{}")); err != nil {
		t.Fatal(err)
	}
	if seen != "a No. 1: a row with this key exists" {
		t.Errorf("the handler saw: %s", seen)
	}
}
