package replay_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// writer is a session of the application. It has at most one transaction open, or prepared.
type writer struct {
	world    *world
	name     string // of its prepared transaction
	conn     *pgx.Conn
	open     bool
	prepared bool
	appended map[string]int64 // by aggregate: how many events the transaction has appended
	drawn    []int64          // positions that it has drawn and may still use
	pending  []int64          // positions of its events, drawn ones included
}

func (wr *writer) begin(ctx context.Context) error {
	if wr.open {
		return nil
	}
	wr.open, wr.appended, wr.pending = true, map[string]int64{}, nil
	_, err := wr.conn.Exec(ctx, "begin")
	return err
}

// draw takes a position and does nothing with it yet. With a cache the number outlives the transaction.
func (wr *writer) draw(ctx context.Context) error {
	if wr.prepared || wr.waits() {
		return nil
	}
	if wr.world.kind != cached {
		if err := wr.begin(ctx); err != nil {
			return err
		}
	}
	var position int64
	if err := wr.conn.QueryRow(ctx, "select "+wr.world.kind.draw()).Scan(&position); err != nil {
		return err
	}
	wr.drawn = append(wr.drawn, position)
	return nil
}

// drawEarlier draws a position in a transaction that has ended. No catalog tells of an application that does so: only
// while the insert is open is it seen.
func (wr *writer) drawEarlier(ctx context.Context) error {
	var position int64
	if err := wr.world.admin.QueryRow(ctx, "select nextval('positions')").Scan(&position); err != nil {
		return err
	}
	wr.drawn = append(wr.drawn, position)
	return nil
}

// waits says whether the writer would have to wait for another one to get a position.
func (wr *writer) waits() bool {
	if wr.world.kind != ordered {
		return false
	}
	for _, other := range wr.world.writers {
		if other != wr && other.open && len(other.pending)+len(other.drawn) > 0 {
			return true
		}
	}
	return false
}

// append adds an event to an aggregate: of a type that somebody handles, or of one that nobody does.
func (wr *writer) append(ctx context.Context, aggregate, eventType string, how how) error {
	w := wr.world
	if owner := w.owners[aggregate]; wr.prepared || wr.waits() || owner != nil && owner != wr { // would wait for the owner, as in any event store
		return nil
	}
	if err := wr.begin(ctx); err != nil {
		return err
	}
	relation := "events"
	if how.leaf && w.kind == partitioned {
		relation = leaf(aggregate)
	}
	var drawn *int64
	if len(wr.drawn) > 0 && how.drawn {
		drawn = &wr.drawn[0]
	}
	if how.undo {
		if _, err := wr.conn.Exec(ctx, "savepoint s"); err != nil {
			return err
		}
	}
	w.amounts++
	var position int64
	err := wr.conn.QueryRow(ctx, fmt.Sprintf(`
		insert into %s (position, aggregate_id, sequence_number, event_type, data)
		values (coalesce($1, %s), $2,
			(select coalesce(max(sequence_number), 0) + 1 from events where aggregate_id = $2), $3,
			jsonb_build_object('amount', $4::int, 'poison', $5::bool))
		returning position`, relation, w.kind.draw()), drawn, aggregate, eventType, w.amounts, w.parks && how.poison && eventType == "Added").Scan(&position)
	switch {
	case pg.IsLockTimeout(err): // held off by the cutover
		return wr.finish(ctx, false)
	case err != nil:
		return fmt.Errorf("append: %w", err)
	case how.undo:
		_, err := wr.conn.Exec(ctx, "rollback to s")
		return err
	}
	if drawn != nil {
		wr.drawn = wr.drawn[1:]
	}
	w.owners[aggregate] = wr
	wr.appended[aggregate]++
	wr.pending = append(wr.pending, position)
	return nil
}

// how an event is appended.
type how struct {
	drawn  bool // with a position that was drawn before, if there is one
	leaf   bool // into the partition
	undo   bool // and taken back, in a savepoint
	poison bool // and cannot be projected, in a world that parks
}

// prepare makes the transaction a prepared one.
func (wr *writer) prepare(ctx context.Context) error {
	if !wr.open || wr.prepared {
		return nil
	}
	wr.prepared = true
	_, err := wr.conn.Exec(ctx, "prepare transaction '"+wr.name+"'")
	return err
}

// finish ends the transaction, if there is one.
func (wr *writer) finish(ctx context.Context, commit bool) error {
	if !wr.open {
		return nil
	}
	end := "rollback"
	if commit {
		end = "commit"
	}
	if wr.prepared {
		end += " prepared '" + wr.name + "'"
	}
	if wr.world.kind != cached {
		wr.drawn = nil
	}
	wr.open, wr.prepared, wr.appended, wr.pending = false, false, nil, nil
	for aggregate, owner := range wr.world.owners {
		if owner == wr {
			delete(wr.world.owners, aggregate)
		}
	}
	tag, err := wr.conn.Exec(ctx, end)
	if err == nil && commit && tag.String() == "ROLLBACK" {
		return errors.New("the writer's commit was a rollback")
	}
	return err
}
