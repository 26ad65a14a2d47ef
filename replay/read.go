package replay

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
)

// feed is a batch on its way from a reader to a worker.
type feed struct {
	batch  batch
	mark   *mark         // of what is read; nil: it is read from the primary
	claim  chan claim    // the worker's one answer
	chunks chan *chunk   // closed at the end
	err    error         // why the chunks end too early; set before they are closed
	done   chan struct{} // closed when the worker takes no more
}

// claim says whether the batch is the worker's, and if so, what the ledger's cut is.
type claim struct {
	ours bool
	cut  int64
}

// errMet ends a pass where another process is at work.
var errMet = errors.New("another process has the next batch")

// reader reads passes and hands their batches to workers.
type reader struct {
	job    *Job
	passes *passes
	feeds  chan<- *feed // unbuffered: a batch is offered when a worker is free
	meter  *meter

	mark   *mark
	feed   *feed
	answer *claim  // of the worker that has the feed; nil: not known yet
	left   []batch // of the pass, offered to no worker yet
	chunk  *chunk
	types  types
	began  time.Time // of waiting for the server
}

// run reads until all batches of the store are done, whoever does them.
func (r *reader) run(ctx context.Context) error {
	t := trouble{}
	for {
		if err := r.job.Throttle.wait(ctx); err != nil {
			return err
		}
		run, err := r.passes.next(ctx)
		if err != nil || run == nil {
			return err
		}
		if r.job.Throttle.held() { // since we began to wait for it
			r.passes.release(run...)
			continue
		}
		r.left, r.feed, r.chunk = run, nil, nil
		err = r.pass(ctx, run)
		r.passes.release(r.left...)
		if r.feed != nil {
			r.feed.err = err
			close(r.feed.chunks)
		}
		switch {
		case err == nil || errors.Is(err, errMet) || errors.Is(err, errHeld):
			t = trouble{}
			continue
		case canceled(err) && len(run) > 1:
			r.passes.shorten(run)
			r.job.Log.Warn().Int("batches", len(run)).Msg("reading fewer batches at once from the standby, which has canceled a pass")
			t = trouble{}
		}
		if !t.again(ctx, r.job, err) {
			if canceled(err) && len(run) == 1 {
				err = run[0].failed("replaying", r.job.Version, err)
			}
			return err
		}
	}
}

// pass reads a run of batches with one statement. Its snapshot may be older than the claim of a batch; that is as good as
// a new one, since it is younger than the cut, and the ledger gets what was read above that. The cut does not move while a batch
// is not done.
func (r *reader) pass(ctx context.Context, run []batch) error {
	cut, err := r.job.cut(ctx, r.job.DB)
	if err != nil {
		return err
	}
	if r.mark, err = r.job.mark(ctx, cut); err != nil {
		return err
	}
	defer r.mark.remove(ctx)
	if err := r.mark.await(ctx); err != nil { // before a worker holds a batch
		return err
	}
	if err := r.offer(ctx); err != nil {
		return err
	}
	if cut, err = r.claimed(); err != nil {
		return err
	}
	sel := eventstore.Selection{
		Range: eventstore.Range{From: run[0].rng.From, To: run[len(run)-1].rng.To},
		Types: r.job.Projections.Parallel().Types(), AllAbove: cut, Sorting: r.passes.sorting,
	}
	for _, b := range run[1:] {
		sel.Bounds = append(sel.Bounds, b.rng.From)
	}
	if r.mark != nil {
		sel.UpTo = cut
		return r.mark.read(ctx, rests, func(tx pgx.Tx) error { return r.scan(ctx, tx, run, sel) })
	}
	return r.job.reading(ctx, rests, func(tx pgx.Tx) error { return r.scan(ctx, tx, run, sel) })
}

// scan hands over what a run of batches has.
func (r *reader) scan(ctx context.Context, tx pgx.Tx, run []batch, sel eventstore.Selection) error {
	r.began = time.Now()
	for e, err := range r.job.Source.Scan(ctx, tx, sel) {
		for err == nil && run[e.Part].number != r.feed.batch.number {
			err = r.advance(ctx)
		}
		if err == nil {
			err = r.add(ctx, e)
		}
		if err != nil {
			return err
		}
	}
	for len(r.left) > 0 { // they have no events
		if err := r.advance(ctx); err != nil {
			return err
		}
	}
	return r.send(ctx)
}

// advance ends the batch that is being read and begins the next one.
func (r *reader) advance(ctx context.Context) error {
	if err := r.send(ctx); err != nil {
		return err
	}
	if _, err := r.claimed(); err != nil {
		return err
	}
	close(r.feed.chunks)
	r.feed = nil
	if r.job.Throttle.held() {
		return errHeld
	}
	return r.offer(ctx)
}

// offer gives the next batch to a worker. Claiming it takes the worker some round trips, in which its events are read already.
func (r *reader) offer(ctx context.Context) error {
	b := r.left[0]
	f := &feed{batch: b, mark: r.mark, claim: make(chan claim, 1), chunks: make(chan *chunk, chunksAhead), done: make(chan struct{})}
	select {
	case r.feeds <- f:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.left = r.left[1:] // from here on, the worker releases it
	r.feed, r.answer = f, nil
	return nil
}

// claimed waits until the batch that is being read is claimed, and returns the ledger's cut. If another process has it, it
// returns errMet.
func (r *reader) claimed() (cut int64, err error) {
	if r.answer == nil {
		c := <-r.feed.claim
		r.answer = &c
	}
	if !r.answer.ours {
		return 0, errMet
	}
	return r.answer.cut, nil
}

// add copies the event to the feed.
func (r *reader) add(ctx context.Context, e *eventstore.Event) error {
	if r.chunk != nil && !r.chunk.hasRoom(e) {
		if err := r.send(ctx); err != nil {
			return err
		}
	}
	if r.chunk == nil {
		r.chunk = newChunk()
	}
	r.chunk.add(e, r.types.keep(e.Type))
	return nil
}

// send hands the chunk over. A worker that has given up gets no more: its batch is pending again.
func (r *reader) send(ctx context.Context) error {
	r.meter.spent(&r.meter.times.read, r.began)
	defer func() { r.began = time.Now() }()
	c := r.chunk
	if c == nil {
		return nil
	}
	r.chunk = nil
	if err := r.job.Throttle.take(ctx, int64(len(c.events))); err != nil {
		return err
	}
	for {
		var claim <-chan claim
		if r.answer == nil {
			claim = r.feed.claim
		}
		select {
		case r.feed.chunks <- c:
			return nil
		case answer := <-claim:
			r.answer = &answer
			if !answer.ours {
				c.free()
				return errMet
			}
		case <-r.feed.done:
			c.free()
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
