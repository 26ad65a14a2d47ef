package projections

import "reflect"

// Projector owns view tables and keeps their rows. It must not be changed once it is part of a Set.
type Projector struct {
	Name     string
	Revision int       // raise it with every change of a handler; a half-built rebuild is not resumed by other code
	Tables   []Table   // a table has one owner
	Handlers []Handler // for one payload type, run in this order
	Order    Order     // what it may rely on; default ByAggregate
}

// Order is the order in which a projector gets events, and which rows it sees.
type Order int

const (
	// ByAggregate gives the events of one aggregate in sequence. Aggregates are replayed in parallel, unaware of each other:
	// handlers see the rows of the event's aggregate only.
	ByAggregate Order = iota
	// ByPosition gives all events in the order of the store, one after the other, and handlers see all rows. The store has to
	// be one whose positions can be settled. See Set.TakeTurn for what an application has to do that projects such events.
	ByPosition
	// ByPartition gives the events that share a Meta.Partition in the order of the store. Handlers see the rows of the event's
	// partition only. The store has to be one whose positions can be settled, and its mapping has to name the partition. As
	// ByPosition, one worker at a time replays the events; other than there, the rows of a partition are loaded at once.
	ByPartition
)

// ProjectorName returns the name.
func (p *Projector) ProjectorName() string { return p.Name }

// Handler handles the events of one payload type. See On.
type Handler interface{ payload() reflect.Type }

// On handles events with payload P. What fn does must depend on e and s alone: no clock, no random values, no I/O.
// An error stops the rebuild, or rolls the application's transaction back, and is reported as an *EventError; so is a
// panic. Workers call fn at the same time, each with a Store of its own.
func On[P any](fn func(s *Store, e Event[P]) error) Handler { return handler[P](fn) }

type handler[P any] func(*Store, Event[P]) error

func (h handler[P]) payload() reflect.Type { return reflect.TypeFor[P]() }

// Table is a view table: *Rows and *Totals, which handlers write, or *SQLTable. A projector has no SQL tables beside others.
type Table interface {
	TableName() string
	isTable()
}

// rowsTable is *Rows or *Totals, whatever the types of key and row.
type rowsTable interface {
	Table
	shape() *model
	// open makes the table's state in a run.
	open(s *Store) state
}

// accumulating is *Totals, whatever the type of its row.
type accumulating interface {
	rowsTable
	rules() *accumulation
}
