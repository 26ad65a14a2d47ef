package eventtable

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// fillSQL gives the next rows their positions. $1 is how many, $2 the last position that was given, $3 how many rows there
// have to be at least, and $4 the time from which to look, or null. It returns how many rows it found in the order of time,
// how many it chose and how many it numbered, and the time up to which all are numbered.
//
// The rows that are next in time bring the earlier events of their aggregates with them, should those have later times:
// within an aggregate only the sequence number counts. Going back through the primary key ends at the first row that has a
// position, since what has one in an aggregate is always its beginning. An event's place is then the earliest time of those
// that come after it in its aggregate, and its own.
//
// A row is found again by its ctid, and by that alone, lest the planner goes through the temporary index for each. If somebody
// updates it meanwhile, its new version has another ctid, and one row fewer is numbered than was chosen.
func (u *upgrade) fillSQL() string {
	return strings.NewReplacer(
		"%TIME%", u.time, "%TYPE%", u.timeType, "%TABLE%", u.relation(), "%ID%", quote(u.aggregate), "%SEQ%", quote(u.sequence),
		"%KIND%", quote(u.aggregateType), "%POSITION%", quote(u.position),
	).Replace(`with recursive events as not materialized (
  select ctid as found, %ID% as id, %KIND% as kind, %SEQ% as seq, %POSITION% as position,
    (%TIME%) as at
  from %TABLE%
), next as materialized (
  select found, id, kind, seq, at
  from events
  where position is null and ($4::text is null or at >= $4::text::%TYPE%)
  order by at, seq, id, kind
  limit $1
), batch as (
  (select distinct on (id, kind) found, id, kind, seq, at from next order by id, kind, seq desc)
  union all
  select earlier.found, batch.id, batch.kind, earlier.seq, earlier.at
  from batch
  cross join lateral (
    select found, seq, at, position
    from events e
    where e.id = batch.id and e.kind = batch.kind and e.seq < batch.seq
    order by e.seq desc
    limit 1
  ) earlier
  where earlier.position is null
), placed as (
  select found, id, kind, seq, min(at) over (partition by id, kind order by seq desc) as place from batch
), chosen as materialized (
  select found, place, row_number() over (order by place, seq, id, kind) as n
  from placed
  order by n
  limit case when (select count(*) from next) >= $3 then $1::int8 else 0 end
), numbered as (
  update %TABLE% t set %POSITION% = $2 + n from chosen where t.ctid = chosen.found returning 1
)
select (select count(*) from next), (select count(*) from chosen), (select count(*) from numbered),
  (select max(place)::text from chosen)`)
}

// filled says whether fewer rows than a batch are left, which can be told quickly only by the temporary index.
func (u *upgrade) filled(ctx context.Context, q pg.Querier) (bool, error) {
	x := u.named(u.fillIndex)
	if u.numbered || x == nil || !x.Valid {
		return u.numbered, nil
	}
	left, err := u.left(ctx, q, u.options.BatchSize)
	return left < u.options.BatchSize, err
}

// left counts the rows without a position, up to so many.
func (u *upgrade) left(ctx context.Context, q pg.Querier, most int) (n int, err error) {
	sql := fmt.Sprintf("select count(*) from (select from %s where %s is null limit $1) rest", u.relation(), quote(u.position))
	err = q.QueryRow(ctx, sql, most).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("looking for rows without a position: %w", err)
	}
	return n, nil
}

// last returns the highest position that was given. Without an index it reads the table, once in a run.
func (u *upgrade) last(ctx context.Context, q pg.Querier) (n int64, err error) {
	err = q.QueryRow(ctx, fmt.Sprintf("select coalesce(max(%s), 0) from %s", quote(u.position), u.relation())).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("looking for the highest position: %w", err)
	}
	return n, nil
}

// errPart: fewer rows are left than a batch is large.
var errPart = errors.New("fewer rows than a batch are left")

// fill numbers rows, batch by batch, until fewer than a batch are left. A crash leaves whole batches: positions without a
// gap from 1 on, and the next run goes on after the highest.
func (u *upgrade) fill(ctx context.Context, w *worker) error {
	began := time.Now()
	last, err := u.last(ctx, w)
	if err != nil {
		return err
	}
	p := Progress{Numbered: last, Rows: max(last, int64(u.rows))}
	var from *string // where the search begins: before it the index has only entries of rows that are numbered
	for {
		var n int64
		err := pg.InTx(ctx, w, pg.PointFill, func(tx pgx.Tx) (err error) {
			n, from, err = u.batch(ctx, tx, last, from, true)
			return err
		})
		switch {
		case errors.Is(err, errPart) && from != nil: // a transaction that was slow to commit may have left earlier rows
			from = nil
			continue
		case errors.Is(err, errPart):
			return nil
		case err != nil:
			return err
		}
		last += n
		p.Numbered, p.Filled, p.Elapsed = last, p.Filled+n, time.Since(began)
		p.Rows = max(p.Rows, last)
		if w.options.Progress != nil {
			w.options.Progress(p)
		}
		if err := pg.Pause(ctx, w.options.Pause); err != nil {
			return err
		}
	}
}

// batch numbers rows after the last position. If it has to be whole, errPart says that fewer than a batch are left; from is
// then as it was.
func (u *upgrade) batch(ctx context.Context, tx pgx.Tx, last int64, from *string, whole bool) (n int64, upTo *string, err error) {
	// The rows in the table are counted for no expression of the new index, so the planner knows nothing; a plan that does
	// not go by the indexes would read the table for each batch.
	_, err = tx.Exec(ctx, `
		select set_config(name, 'off', true)
		from unnest('{enable_seqscan,enable_bitmapscan,enable_hashjoin,enable_mergejoin,jit}'::text[]) name`)
	if err != nil {
		return 0, from, err
	}
	atLeast := 0
	if whole {
		atLeast = u.options.BatchSize
	}
	var found, chosen int64
	if err := tx.QueryRow(ctx, u.fillSQL(), u.options.BatchSize, last, atLeast, from).Scan(&found, &chosen, &n, &upTo); err != nil {
		return 0, from, err
	}
	switch {
	case n != chosen:
		return 0, from, fmt.Errorf("of %d rows %d could be given a position; does somebody else change %s?", chosen, n, u.relation())
	case found < int64(atLeast):
		return 0, from, errPart
	}
	return n, upTo, nil
}

// errTail says that too many rows came meanwhile to number them with writers held off.
var errTail = errors.New("more rows than two batches have come")

// numberLast numbers the last rows with everybody held off, and makes the sequence the default in the same transaction: no
// row is ever without a position afterwards. A crash leaves all of it or nothing.
//
// The temporary index goes first. It still has entries of all the rows that were numbered since the last VACUUM, which a search
// would have to pass; the index of the positions has just those that are left.
func (u *upgrade) numberLast(ctx context.Context, w *worker, grantees []string) error {
	return w.locked(ctx, func(tx pgx.Tx) error {
		if err := run(ctx, tx, "select set_config('enable_seqscan', 'off', true)", u.dropSQL()); err != nil {
			return err
		}
		most := 2 * u.options.BatchSize // what the filling left, and as much again
		left, err := u.left(ctx, tx, most)
		if err != nil {
			return err
		}
		if left >= most {
			return errTail
		}
		for left > 0 {
			last, err := u.last(ctx, tx)
			if err != nil {
				return err
			}
			n, _, err := u.batch(ctx, tx, last, nil, false)
			if err != nil {
				return err
			}
			left -= int(n)
		}
		return run(ctx, tx, u.numberSQL(grantees)...)
	})
}

func thousands(n int) string {
	if n < 1_000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1_000), n%1_000)
}
