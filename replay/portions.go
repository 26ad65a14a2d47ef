package replay

import (
	"cmp"
	"context"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/projections"
)

// groupSize is about how many events a group of a catch-up holds at most. Its events and rows are in memory at once.
const groupSize = 3_000

// groupPortions is into how many portions a reader cuts so many events.
const groupPortions = 6

// portion is some whole aggregates and what the ledger lacks of them, on the way from the reader of a catch-up to a worker.
type portion struct {
	chunks     []*chunk
	mark       *mark            // a server that has it has the events
	aggregates []projections.ID // instead of events, which stay in the database: of a set of SQL tables alone
}

// last is the chunk that the event goes to.
func (p *portion) last(e *eventstore.Event) *chunk {
	if n := len(p.chunks); n > 0 && p.chunks[n-1].hasRoom(e) {
		return p.chunks[n-1]
	}
	p.chunks = append(p.chunks, newChunk())
	return p.chunks[len(p.chunks)-1]
}

// group is what a worker applies in one transaction: some portions. Its memory is used for one group after the other.
type group struct {
	aggregates []projections.ID
	events     [][]projections.Raw // of its chunks
	chunks     []*chunk
	mark       *mark
	read       bool // the events are here; else they have to be read
}

func (g *group) add(p portion) {
	if len(g.aggregates) == 0 {
		g.mark, g.read = p.mark, len(p.chunks) > 0
	}
	g.read = g.read && g.mark == p.mark
	g.aggregates = append(g.aggregates, p.aggregates...)
	for _, c := range p.chunks {
		g.aggregates = appendAggregates(g.aggregates, c.events)
		g.events = append(g.events, c.events)
	}
	g.chunks = append(g.chunks, p.chunks...)
}

// appendAggregates appends those of events that come aggregate by aggregate.
func appendAggregates(ids []projections.ID, events []projections.Raw) []projections.ID {
	for i := range events {
		if id := events[i].AggregateID; len(ids) == 0 || ids[len(ids)-1] != id {
			ids = append(ids, id)
		}
	}
	return ids
}

func (g *group) reset() {
	for _, c := range g.chunks {
		c.free()
	}
	clear(g.events)
	*g = group{aggregates: g.aggregates[:0], events: g.events[:0], chunks: g.chunks[:0]}
}

// take makes a group of the next portion and those that wait behind it: as many as a group may have, and no more than the worker's share. So
// groups get smaller towards the end, and no worker has much to do when the others have nothing left. It returns false if there are
// no more. When nothing new may be begun, it drops them: they are still lacking.
func (c *catchUp) take(ctx context.Context, g *group) (bool, error) {
	g.reset()
	for {
		var p portion
		var open bool
		select {
		case p, open = <-c.portions:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		if !open {
			return false, nil
		}
		g.add(p)
		for range min(len(c.portions)/c.workers, groupPortions-1) {
			select {
			case p, open := <-c.portions:
				if open {
					g.add(p)
				}
			default: // another worker was faster
			}
		}
		if !c.job.Throttle.held() {
			return true, nil
		}
		c.held.Store(true)
		g.reset()
	}
}

// portionSize is about how many events a portion has.
func (c *catchUp) portionSize() int64 {
	return max(1, cmp.Or(c.job.groupSize, groupSize)/groupPortions)
}

// drop forgets the portions that wait, since all that is lacking is read again.
func (c *catchUp) drop() {
	for {
		select {
		case <-c.portions:
		default:
			return
		}
	}
}
