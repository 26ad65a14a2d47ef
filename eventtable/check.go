package eventtable

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
)

// Severity says what a finding asks for.
type Severity string

// The severities.
const (
	Fit  Severity = "fit"
	Note Severity = "note" // slower or less comfortable than it could be; never wrong
	Mend Severity = "mend"
)

// Finding is something that is or is not as a rebuild needs it.
type Finding struct {
	About    string   `json:"about"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Cost     string   `json:"cost,omitempty"` // of leaving it so
	Type     string   `json:"type,omitempty"` // what to type: SQL, or a command of Projector
}

// Report is what Check found.
type Report struct {
	Relation string    `json:"relation"`
	Findings []Finding `json:"findings"`
}

// Fit says whether nothing should be mended.
func (r *Report) Fit() bool {
	for _, f := range r.Findings {
		if f.Severity == Mend {
			return false
		}
	}
	return true
}

// prepareCommand is what mends a table; the program's name is left to who shows it.
const prepareCommand = "events prepare"

// Check looks whether the events of a mapping can be read well. It touches nothing, and reads the table itself only to look for
// duplicates, for at most 5 seconds. The error is eventstore.ErrMapping, or that the database cannot be read.
func Check(ctx context.Context, db pg.Beginner, m eventstore.Mapping) (*Report, error) {
	var r *Report
	err := pg.InTx(ctx, db, pg.PointList, func(tx pgx.Tx) error {
		t, err := look(ctx, tx, m)
		if err != nil {
			return err
		}
		c := &checker{table: t, tx: tx, mapping: m, report: Report{Relation: t.relation()}}
		r = &c.report
		return c.run(ctx)
	})
	return r, err
}

type checker struct {
	*table
	tx      pgx.Tx
	mapping eventstore.Mapping
	report  Report
}

func (c *checker) add(about string, s Severity, text, cost, typ string) {
	c.report.Findings = append(c.report.Findings, Finding{about, s, text, cost, typ})
}

func (c *checker) run(ctx context.Context) error {
	if may, err := c.rights(ctx); err != nil || !may {
		return err
	}
	if a := axon2Of(c.table); a != nil {
		if err := c.axon2(ctx, a); err != nil {
			return err
		}
	} else if err := c.events(ctx); err != nil {
		return err
	}
	for _, x := range c.indexes {
		if !x.Valid && c.relkind == "r" {
			c.add("index "+x.Name, Mend, "a failed build has left it invalid",
				"every insert pays for it, nobody reads it, and if it is unique it may refuse rows", prepareCommand)
		}
	}
	if why := c.stale(); why != "" {
		c.add("statistics", Mend, why, "plans and the sizes of batches are guesses", "analyze "+c.relation())
	} else if c.relkind != "v" {
		c.add("statistics", Fit, "they are there", "", "")
	}
	c.add("rights", Fit, "our role may read "+c.relation(), "", "")
	return nil
}

// axon2 is a table that has no position yet, or whose upgrade is not at its end.
func (c *checker) axon2(ctx context.Context, a *axon) error {
	switch column, ok := c.columns[a.position]; {
	case !ok:
		c.add("position", Mend, "this is a table of Axon 2, which has none",
			"it cannot be read: nothing tells which events are new", prepareCommand)
	case column.Fallback == "":
		c.add("position", Mend, "the upgrade from Axon 2 is under way: not every row has one", "it cannot be read yet", prepareCommand)
	default:
		c.add("position", Mend, "the upgrade from Axon 2 is not at its end", "the keys are still those of Axon 2", prepareCommand)
	}
	var d *Duplicates
	known, err := c.briefly(ctx, func() (err error) {
		d, err = duplicates(ctx, c.tx, c.table, a)
		return err
	})
	switch {
	case err != nil:
		return err
	case !known:
		c.add("duplicates", Note, "whether identifiers belong to aggregates of several types takes more than 5 s to find out", "",
			prepareCommand+" --dry-run")
	case d != nil:
		c.add("duplicates", Mend, d.String(), "the events of two aggregates would be taken for one's",
			prepareCommand+" --keep-type, and read one type at a time")
	default:
		c.add("duplicates", Fit, "each identifier belongs to one type of aggregate", "", "")
	}
	return nil
}

// events is any other relation.
func (c *checker) events(ctx context.Context) error {
	r, err := eventstore.Open(ctx, c.tx, c.mapping)
	if err != nil {
		return err
	}
	k, err := keysOf(ctx, c.tx, c.table, c.mapping)
	if err != nil {
		return err
	}
	if err := c.key(ctx, k); err != nil {
		return err
	}
	access, err := r.Access(ctx, c.tx)
	if err != nil {
		return err
	}
	id := r.Mapping().AggregateID
	switch {
	case !access.ByIndex:
		c.add("ranges", Mend, "no index finds the events of a range of "+id,
			"every pass over the events reads the whole table, and so does every group of a catch-up", c.rangeIndex(k, access))
	case !access.InOrder:
		c.add("ranges", Note, "an index finds the events of a range of "+id+", but not in their order",
			"each pass sorts what it has read, and may read all of the index", c.rangeIndex(k, access))
	default:
		c.add("ranges", Fit, "an index has the events of a range of "+id+" in their order", "", "")
	}
	c.positionIndex(k)
	reason, err := r.Distrust(ctx, c.tx)
	switch {
	case err != nil:
		return err
	case reason != "":
		_, typ, _ := strings.Cut(reason, "; type: ")
		c.add("trust", Note, "no cut can be settled: "+strings.TrimSuffix(reason, "; type: "+typ), "the ledger has a row for every event", typ)
	default:
		c.add("trust", Fit, "positions come from a sequence, in the transaction of the event", "", "")
	}
	whyNot, err := r.MayHoldWriters(ctx, c.tx)
	switch {
	case err != nil:
		return err
	case whyNot != "":
		c.add("writer lock", Note, whyNot, "the cutover needs stopped writers, and --maintenance", "")
	default:
		c.add("writer lock", Fit, "our role may hold off writers in the cutover", "", "")
	}
	return nil
}

// key is about what keeps two events from being the same one of their aggregate.
func (c *checker) key(ctx context.Context, k keys) error {
	const about, cost = "key", "two events could have the same place in their aggregate, and nothing would tell which comes first"
	if c.relkind == "v" || k.aggregate == "" || k.sequence == "" {
		c.add(about, Note, "what makes events unique cannot be seen through a view or an expression", "", "")
		return nil
	}
	pair := k.aggregate + ", " + k.sequence
	mend := c.mendIndex("unique ", fmt.Sprintf("(%s, %s)", quote(k.aggregate), quote(k.sequence)))
	switch x := c.unique(k); {
	case x != nil && len(x.Keys) == 2 && !x.Partial:
		c.add(about, Fit, pair+" is unique", "", "")
		return nil
	case x != nil:
		c.add(about, Note, pair+" is unique only together with what else index "+x.Name+" has",
			"if that is not in the Where of the Source, events of several streams are taken for one's", "")
		return nil
	}
	var twice string
	known, err := c.briefly(ctx, func() (err error) {
		twice, err = c.twice(ctx, c.tx, k)
		return err
	})
	var beside bool
	if err == nil {
		beside, err = c.partitionedBeside(ctx, k.aggregate, k.sequence)
	}
	switch {
	case err != nil:
		return err
	case k.filtered:
		c.add(about, Note, pair+" is not unique", "", "")
	case beside && twice != "":
		c.add(about, Mend, pair+" is not unique: "+twice, cost, "mend the events")
	case beside:
		c.add(about, Note, pair+" cannot be declared unique: PostgreSQL wants the columns that a table is partitioned by in each unique index", cost, "")
	case twice != "":
		c.add(about, Mend, pair+" is not unique: "+twice, cost, "mend the events, and then: "+mend)
	case known:
		c.add(about, Mend, pair+" is not declared unique, though no two are the same now", cost, mend)
	default:
		c.add(about, Mend, pair+" is not declared unique", cost, mend)
	}
	return nil
}

// partitionedBeside says whether a table is partitioned, at whatever level, by something else than these columns.
func (c *checker) partitionedBeside(ctx context.Context, columns ...string) (beside bool, err error) {
	err = c.tx.QueryRow(ctx, `
		select exists (
			select
			from (`+pg.Tree("$1")+`) tree
			join pg_catalog.pg_partitioned_table p on p.partrelid = tree.id
			cross join lateral pg_catalog.unnest(p.partattrs::int2[]) k (number) -- 0: an expression
			left join pg_catalog.pg_attribute a on a.attrelid = p.partrelid and a.attnum = k.number
			where a.attname is null or a.attname <> all ($2))`, c.oid, columns).Scan(&beside)
	if err != nil {
		return false, fmt.Errorf("looking what %s is partitioned by: %w", c.relation(), err)
	}
	return beside, nil
}

// rangeIndex is what to type for an index by which ranges of aggregates can be read. Text ids are compared by their bytes.
func (c *checker) rangeIndex(k keys, a eventstore.Access) string {
	if k.aggregate == "" || k.sequence == "" {
		return "index what the mapping's expressions are made of"
	}
	on := fmt.Sprintf("(%s%s, %s)", quote(k.aggregate), a.Collate, quote(k.sequence))
	if c.relkind == "r" && a.Collate != "" {
		return fmt.Sprintf("create index concurrently on %s %s", c.relation(), on)
	}
	return c.mendIndex("", on)
}

// mendIndex is what to type for an index: PostgreSQL builds none concurrently on all of a partitioned table.
func (c *checker) mendIndex(unique, on string) string {
	switch c.relkind {
	case "r":
		return prepareCommand
	case "p":
		return fmt.Sprintf("create %sindex concurrently on %s for each partition of %s, and then, which takes no time, create %sindex on %s %s",
			unique, on, c.relation(), unique, c.relation(), on)
	}
	return "index these columns in the tables below the view: " + on
}

func (c *checker) positionIndex(k keys) {
	switch {
	case c.relkind == "v" || k.position == "":
		c.add("position", Note, "whether an index has the positions cannot be seen through a view or an expression", "", "")
	case c.leads(k.position):
		c.add("position", Fit, "an index has "+k.position+" in order", "", "")
	default:
		c.add("position", Mend, "no index has "+k.position,
			"each catch-up, and the cutover with writers held off, reads the whole table to find what is new",
			c.mendIndex("", "("+quote(k.position)+")"))
	}
}

// rights says whether our role may read the relation; without that, nothing else can be found out.
func (c *checker) rights(ctx context.Context) (may bool, err error) {
	var role string
	err = c.tx.QueryRow(ctx, "select pg_catalog.has_table_privilege($1::oid, 'select'), pg_catalog.quote_ident(current_user)", c.oid).
		Scan(&may, &role)
	switch {
	case err != nil:
		return false, fmt.Errorf("looking up our rights on %s: %w", c.relation(), err)
	case !may:
		c.add("rights", Mend, "our role may not read all of "+c.relation(), "nothing can be rebuilt",
			fmt.Sprintf("grant select on %s to %s", c.relation(), role))
	}
	return may, nil
}

// cheap is how long a look at the rows may take.
const cheap = 5 * time.Second

// briefly runs fn, and says whether it came to its end in time.
func (c *checker) briefly(ctx context.Context, fn func() error) (known bool, err error) {
	if _, err = c.tx.Exec(ctx, "savepoint briefly"); err == nil {
		_, err = c.tx.Exec(ctx, "select set_config('statement_timeout', $1, true)", pg.Milliseconds(cheap))
	}
	if err != nil {
		return false, err
	}
	err = fn()
	if err != nil && (!pg.IsStatementTimeout(err) || ctx.Err() != nil) {
		return false, err
	}
	_, rollback := c.tx.Exec(ctx, "rollback to savepoint briefly")
	return err == nil, errors.Join(rollback)
}
