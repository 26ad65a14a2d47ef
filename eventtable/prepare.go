package eventtable

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
)

// Options change how a table is prepared; the zero value is good.
type Options struct {
	BatchSize int           // rows that get a number in one transaction; default 1,000
	Pause     time.Duration // between two batches
	// KeepType keeps the type in the key of an Axon 2 table, for stores in which aggregates of different types share an
	// identifier: (identifier, sequence number, type) is then what is unique.
	KeepType    bool
	LockTimeout time.Duration // how long to wait for a lock that holds off others, for each try; default 100 ms
	LockWait    time.Duration // how long to try to get such a lock; default 1 minute
	PauseBudget time.Duration // how long a statement may take that holds such a lock; default 500 ms
	Log         zerolog.Logger
	Begin       func(Step)     // called before a step is taken; may be nil
	End         func(Step)     // called when it has been taken; may be nil
	Progress    func(Progress) // called after each batch; may be nil
}

func (o Options) withDefaults() Options {
	if o.BatchSize <= 0 {
		o.BatchSize = 1_000
	}
	for value, fallback := range map[*time.Duration]time.Duration{
		&o.LockTimeout: 100 * time.Millisecond, &o.LockWait: time.Minute, &o.PauseBudget: 500 * time.Millisecond,
	} {
		if *value <= 0 {
			*value = fallback
		}
	}
	return o
}

// Progress tells how far the filling is.
type Progress struct {
	Numbered int64 // rows that have a number, those of earlier runs included
	Rows     int64 // about how many there are
	Filled   int64 // rows that this run has given a number
	Elapsed  time.Duration
}

// Step is a step of a preparation.
type Step struct {
	Name string   `json:"step"`
	Does string   `json:"does"`
	SQL  []string `json:"sql"`  // what will run; $1 and so on stand for values
	Lock string   `json:"lock"` // who waits for it, and for how long at most
	Done bool     `json:"done"`

	run func(context.Context, *worker) error
}

// Preparation is what is to be done with a table.
type Preparation struct {
	Relation   string      `json:"relation"`
	Steps      []Step      `json:"steps"`
	Notes      []string    `json:"notes"`                // to know before
	Refused    []string    `json:"refused"`              // why nothing can be done
	Duplicates *Duplicates `json:"duplicates,omitempty"` // events that keep a key from being unique

	mapping eventstore.Mapping
	options Options
}

// Nothing says whether every step is done.
func (p *Preparation) Nothing() bool { return p.next() == nil }

func (p *Preparation) next() *Step {
	for i := range p.Steps {
		if !p.Steps[i].Done {
			return &p.Steps[i]
		}
	}
	return nil
}

// Plan says what is to be done to make the table of the mapping fit. It touches nothing. Of the mapping, a table of Axon 2
// needs no more than the relation, or the preset. The error is eventstore.ErrMapping, or that the database cannot be read.
func Plan(ctx context.Context, db pg.Beginner, m eventstore.Mapping, o Options) (*Preparation, error) {
	p := &Preparation{Notes: []string{}, Refused: []string{}, mapping: m, options: o.withDefaults()}
	err := pg.InTx(ctx, db, pg.PointList, func(tx pgx.Tx) error {
		// It looks for duplicates, which reads the whole table.
		if _, err := tx.Exec(ctx, "set local statement_timeout = 0"); err != nil {
			return err
		}
		t, err := p.look(ctx, tx)
		if err != nil {
			return err
		}
		return p.check(ctx, tx, t)
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// look reads the catalog and makes the steps for what it finds.
func (p *Preparation) look(ctx context.Context, q pg.Querier) (*table, error) {
	t, err := look(ctx, q, p.mapping)
	if err != nil {
		return nil, err
	}
	p.Relation = t.relation()
	if a := axon2Of(t); a != nil {
		p.Steps, err = p.upgrade(ctx, q, t, a)
		return t, err
	}
	p.Steps, err = p.generic(ctx, q, t)
	return t, err
}

// check finds what stands in the way.
func (p *Preparation) check(ctx context.Context, q pg.Querier, t *table) error {
	switch {
	case t.relkind != "r" && t.relkind != "p":
		p.refuse("%s is no table: name the table below it in the Source", t.relation())
	case t.standby:
		p.refuse("the server is a standby; connect to the primary")
	case p.Nothing():
		return nil
	case !t.ours:
		p.refuse("%s belongs to %s, and our role is not a member of it", t.relation(), t.owner)
	case !t.mayCreate:
		p.refuse("our role may not create indexes in schema %s; type: grant create on schema %s to current_user", t.schema, quote(t.schema))
	}
	if a := axon2Of(t); a != nil {
		return p.checkAxon2(ctx, q, t, a)
	}
	return p.checkGeneric(ctx, q, t)
}

func (p *Preparation) refuse(format string, args ...any) {
	p.Refused = append(p.Refused, fmt.Sprintf(format, args...))
}

// Err is ErrRefused with all its reasons, or nil.
func (p *Preparation) Err() error {
	if len(p.Refused) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrRefused, strings.Join(p.Refused, "; "))
}
