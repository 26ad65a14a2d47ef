package projections

import (
	"fmt"
	"time"
)

// binding is an event type with the handlers of its payload, found once.
type binding interface {
	// start makes the applier of one run, which has room for one payload.
	start(r *Run) applier
	// projectors are those that handle it, by their place in the set.
	projectors() []int
}

// applier applies the events of one type in one run.
type applier interface {
	apply(e *Raw, timed bool) error
	applyValue(m Meta, data any) error
}

type bound[P any] struct {
	event *typed[P]
	calls []boundCall[P]
}

type boundCall[P any] struct {
	projector int // in the set
	handle    handler[P]
}

func (t *typed[P]) bind(ps []*Projector) binding {
	var calls []boundCall[P]
	for i, p := range ps {
		for _, h := range p.Handlers {
			if h, ok := h.(handler[P]); ok {
				calls = append(calls, boundCall[P]{i, h})
			}
		}
	}
	if calls == nil {
		return nil
	}
	return &bound[P]{t, calls}
}

func (b *bound[P]) projectors() (places []int) {
	for _, c := range b.calls {
		places = append(places, c.projector)
	}
	return places
}

func (b *bound[P]) start(r *Run) applier { return &bindingRun[P]{bound: b, run: r} }

type bindingRun[P any] struct {
	*bound[P]
	run  *Run
	data P // what decode writes to: a local variable would be an allocation per event
}

func (b *bindingRun[P]) apply(e *Raw, timed bool) (err error) {
	m := e.meta(b.event.name)
	defer func() {
		if v := recover(); v != nil {
			err = &EventError{Meta: m, Err: fmt.Errorf("decode into %T: %w", b.data, panicked(v))}
		}
	}()
	var zero P
	b.data = zero
	var began time.Time
	if timed {
		began = time.Now()
	}
	if b.event.former != nil {
		if err := b.event.decodeFormer(e, &b.data); err != nil {
			return &EventError{Meta: m, Err: err}
		}
	} else if err := b.event.decode(e.Data, &b.data); err != nil {
		return &EventError{Meta: m, Err: fmt.Errorf("decode into %T: %w", b.data, err)}
	}
	if timed {
		b.run.spent.Decode += sampled * time.Since(began)
	}
	return b.call(m)
}

func (b *bindingRun[P]) applyValue(m Meta, data any) error {
	switch d := data.(type) {
	case *P:
		b.data = *d
	case P:
		b.data = d
	}
	if m.Type == "" {
		m.Type = b.event.name
	}
	return b.call(m)
}

func (b *bindingRun[P]) call(m Meta) (err error) {
	var s *Store
	var missing error
	defer func() {
		if v := recover(); v != nil {
			err = &EventError{Meta: m, Projector: s.projector.Name, Err: panicked(v)}
		}
	}()
	for _, c := range b.calls {
		s = b.run.stores[c.projector]
		if err := c.handle(s, Event[P]{m, b.data}); err != nil {
			err = &EventError{Meta: m, Projector: s.projector.Name, Err: err}
			if !b.run.missed {
				return err
			}
			missing = err // the others may miss something, too
		}
	}
	return missing
}
