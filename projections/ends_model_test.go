package projections_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"

	"github.com/viewschema/projector/projections"
)

// The model of the test of the two ends: three tables with all kinds of columns.
type (
	address struct {
		Street string `bun:"street"`
		Zip    *int32 `bun:"zip"`
	}
	person struct {
		bun.BaseModel `bun:"table:people"`
		ID            uuid.UUID         `bun:"id,pk"`
		Name          string            `bun:"name"`
		Note          string            `bun:"note,nullzero"`
		Amount        string            `bun:"amount"`
		At            time.Time         `bun:"at"`
		Seen          *time.Time        `bun:"seen,type:timestamp"`
		Day           time.Time         `bun:"day,type:date"`
		Doc           map[string]string `bun:"doc"`
		Tags          []string          `bun:"tags"`
		Mood          string            `bun:"mood"`
		Moods         []string          `bun:"moods"`
		Blob          []byte            `bun:"blob"`
		Score         float64           `bun:"score"`
		Level         int16             `bun:"level"`
		Flag          *bool             `bun:"flag"`
		Home          address           `bun:"embed:home_"`
	}
	lineKey struct {
		Person uuid.UUID
		No     int32
	}
	line struct {
		bun.BaseModel `bun:"table:lines"`
		ID            int64     `bun:"id,pk,autoincrement"`
		Person        uuid.UUID `bun:"person" view:"aggregate"`
		No            int32     `bun:"no"`
		Kind          string    `bun:"kind"`
		N             int64     `bun:"n"`
		Total         int64     `bun:"total"`
	}
	mark struct {
		bun.BaseModel `bun:"table:marks"`
		Key           string `bun:"key,pk"`
		Person        string `bun:"person" view:"aggregate"`
		Times         uint32 `bun:"times"`
	}
	booking struct {
		bun.BaseModel `bun:"table:bookings"`
		Key           int64     `bun:"key,pk"`
		Person        uuid.UUID `bun:"person" view:"aggregate"`
		N             int64     `bun:"n"`
		Total         int64     `bun:"total"`
	}
)

const endsSQL = `
create type feeling as enum ('sad', 'ok', 'happy');
create domain zip as integer check (value > 0);
create table people (
  id uuid primary key, name text not null, note varchar(40), amount numeric not null, at timestamptz not null, seen timestamp,
  day date not null, doc jsonb, tags text[], mood feeling not null, moods feeling[], blob bytea, score float8 not null,
  level smallint not null, flag boolean, home_street text not null, home_zip zip
);
create table lines (
  id bigint generated always as identity primary key, person uuid not null, no int not null, kind text not null,
  n bigint not null, total bigint not null, unique (person, no)
);
create domain always as text default '' not null;
create table marks (key text primary key, person uuid not null, times bigint not null, hidden always);
create table bookings (key bigint primary key, person uuid not null, n bigint not null, total bigint not null);
`

var (
	people = projections.NewRows(func(p *person) uuid.UUID { return p.ID })
	lines  = projections.NewRows(func(l *line) lineKey { return lineKey{l.Person, l.No} })
	byN    = projections.NewIndex(lines, "person", "n", func(l *line) (uuid.UUID, int64) { return l.Person, l.N })
	byKind = projections.NewIndex(lines, "kind", "n", func(l *line) (string, int64) { return l.Kind, l.N })
	marks  = projections.NewRows(func(m *mark) string { return m.Key })

	bookings = projections.NewRows(func(b *booking) int64 { return b.Key })
	byAmount = projections.NewIndex(bookings, "person", "n", func(b *booking) (uuid.UUID, int64) { return b.Person, b.N })
)

// step is one operation of a handler.
type step struct {
	Op   string
	No   int32
	N    int64
	Kind string
	Late bool // of the other aggregate
}

type done struct{ Steps []step }

// log has the errors that handlers saw, by projector and event.
type log map[string][]string

type logKey struct{}

func perform(projector string, apply func(s *projections.Store, m projections.Meta, st step) error) projections.Handler {
	return projections.On(func(s *projections.Store, e projections.Event[done]) error {
		l, at := s.Context().Value(logKey{}).(log), fmt.Sprintf("%s %d", projector, e.Position)
		delete(l, at) // the event may have been here before
		for _, st := range e.Data.Steps {
			if err := apply(s, e.Meta, st); err != nil {
				l[at] = append(l[at], err.Error())
				if !errors.Is(err, projections.ErrNotFound) && !errors.Is(err, projections.ErrExists) &&
					!errors.Is(err, projections.ErrForeign) && !errors.Is(err, projections.ErrKey) {
					return err
				}
			}
		}
		return nil
	})
}

var peopleProjector = &projections.Projector{
	Name:   "people",
	Tables: []projections.Table{people},
	Handlers: []projections.Handler{perform("people", func(s *projections.Store, m projections.Meta, st step) error {
		id := uuid.UUID(m.AggregateID.UUID())
		if st.Late {
			id[15]++
		}
		switch st.Op {
		case "create":
			return people.Create(s, newPerson(id, m, st))
		case "put":
			return people.Put(s, newPerson(id, m, st))
		case "update":
			return people.Update(s, id, func(p *person) { changePerson(p, m, st) })
		case "upsert":
			return people.Upsert(s, id, func(p *person, exists bool) {
				if !exists {
					*p = newPerson(id, m, st)
				}
				changePerson(p, m, st)
			})
		case "delete":
			return people.Delete(s, id)
		case "get":
			p, err := people.Get(s, id)
			if err != nil {
				return err
			}
			p.Name = fmt.Sprint(p.At, p.Seen, p.Day, len(p.Doc), p.Doc == nil, len(p.Tags), p.Tags == nil, p.Amount, p.Home.Zip == nil, len(p.Blob), p.Blob == nil)
			return people.Put(s, p)
		}
		return nil
	})},
}

// Bookings are what a catch-up need not load, until a handler does more than add some and look at the last.
var bookingsProjector = &projections.Projector{
	Name:   "bookings",
	Tables: []projections.Table{bookings},
	Handlers: []projections.Handler{perform("bookings", func(s *projections.Store, m projections.Meta, st step) error {
		id := uuid.UUID(m.AggregateID.UUID())
		row := booking{Key: 1000*int64(id[0]) + 100*int64(id[15]) + int64(st.No), Person: id, N: st.N}
		if st.Late {
			row.Key += 50
		}
		switch st.Op {
		case "create", "put", "last":
			last, _, err := byAmount.Last(s, id)
			if err != nil {
				return err
			}
			row.Total = last.Total + last.Key + st.N
			return bookings.Create(s, row)
		case "many":
			next := row
			next.Key++
			return bookings.Create(s, row, next)
		case "update":
			return bookings.Update(s, row.Key, func(b *booking) { b.N = st.N })
		case "delete":
			return bookings.Delete(s, row.Key)
		}
		return nil
	})},
}

func newPerson(id uuid.UUID, m projections.Meta, st step) person {
	p := person{ID: id, Name: st.Kind, Amount: fmt.Sprintf("%d.%02d", st.N, st.No), At: m.Time, Day: m.Time, Mood: "ok", Score: float64(st.N) / 3}
	changePerson(&p, m, st)
	return p
}

func changePerson(p *person, m projections.Meta, st step) {
	p.Level++
	switch st.N % 8 {
	case 0:
		p.Note, p.Doc, p.Tags, p.Blob = "", nil, nil, nil
	case 1:
		p.Note, p.Doc, p.Tags, p.Blob = "n", map[string]string{}, []string{}, []byte{}
	case 2:
		if p.Doc != nil {
			p.Doc[st.Kind] = "in place"
		}
		p.Tags = append(p.Tags, st.Kind, `"{,`)
	case 3:
		p.Seen, p.Flag = &m.Time, new(bool)
	case 4:
		p.Seen, p.Flag, p.Home = nil, nil, address{Street: "s"}
	case 5:
		p.Home.Zip = &st.No
		p.Moods = []string{"sad", "happy"}
	case 6:
		p.At = p.At.Add(333 * time.Nanosecond)
		p.Mood = "happy"
	}
}

var linesProjector = &projections.Projector{
	Name:   "lines",
	Tables: []projections.Table{lines, marks},
	Handlers: []projections.Handler{perform("lines", func(s *projections.Store, m projections.Meta, st step) error {
		id := uuid.UUID(m.AggregateID.UUID())
		other := id
		if st.Late {
			other[15]++
		}
		key := lineKey{id, st.No}
		row := line{Person: other, No: st.No, Kind: st.Kind, N: st.N, ID: 77}
		switch st.Op {
		case "create":
			last, _, err := byN.Last(s, id)
			if err != nil {
				return err
			}
			row.Total = last.Total + st.N
			return lines.Create(s, row)
		case "many":
			next := row
			next.No++
			return lines.Create(s, row, next)
		case "put":
			return lines.Put(s, row)
		case "update":
			return lines.Update(s, key, func(l *line) { l.N, l.Kind = st.N, st.Kind })
		case "upsert":
			return lines.Upsert(s, key, func(l *line, exists bool) {
				if !exists {
					*l = row
				}
				l.Total++
			})
		case "delete":
			return lines.Delete(s, key)
		case "get":
			l, ok, err := lines.Find(s, key)
			if err != nil || !ok {
				return err
			}
			return marks.Upsert(s, fmt.Sprintf("%s %d", id, l.ID+l.Total), func(m *mark, _ bool) {
				m.Key, m.Person = fmt.Sprintf("%s %d", id, l.ID+l.Total), id.String()
				m.Times++
			})
		case "last":
			l, ok, err := byKind.Last(s, st.Kind)
			if err != nil || !ok {
				return err
			}
			return marks.Create(s, mark{Key: fmt.Sprint(other, l.No), Person: other.String()})
		case "update group":
			n := int64(0)
			_, err := byKind.Update(s, st.Kind, func(l *line) { n++; l.N -= n * st.N })
			return err
		case "delete group":
			_, err := byN.Delete(s, other)
			return err
		case "loop":
			first, _, err := byKind.First(s, st.Kind)
			if err != nil {
				return err
			}
			for l, err := range byN.All(s, id) {
				if err != nil {
					return err
				}
				if err := lines.Update(s, lineKey{id, l.No}, func(l *line) { l.Total += first.N; l.N = -l.N }); err != nil {
					return err
				}
			}
		case "all":
			n := 0
			for l, err := range lines.All(s) {
				if err != nil {
					return err
				}
				n += int(l.No)
			}
			_, err := marks.UpdateAll(s, func(m *mark) { m.Times += uint32(n) })
			return err
		case "none":
			_, err := marks.DeleteAll(s)
			return err
		}
		return nil
	})},
}

var endsEvents = []projections.EventType{projections.JSON[done]("Done"), projections.Ignore("Noise")}

func setupEnds(ctx context.Context, conn *pgx.Conn) error {
	for _, schema := range []string{"rebuilt", "caughtup", "live"} {
		if _, err := conn.Exec(ctx, "create schema "+schema+"; set search_path = "+schema+";"+endsSQL+"; reset search_path"); err != nil {
			return err
		}
	}
	return nil
}
