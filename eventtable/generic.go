package eventtable

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/viewschema/projector/eventstore"
	"github.com/viewschema/projector/internal/pg"
)

// keys are the columns by which events are read; empty where the mapping has an expression.
type keys struct {
	aggregate, sequence, position string
	shared                        bool // several events may have one position
	filtered                      bool // the table also has rows that are not events
}

// keysOf takes them from Axon's layout, or from the mapping.
func keysOf(ctx context.Context, q pg.Querier, t *table, m eventstore.Mapping) (keys, error) {
	if a := axonOf(t); a != nil {
		return keys{aggregate: a.aggregate, sequence: a.sequence, position: a.position}, nil
	}
	r, err := eventstore.Open(ctx, q, m)
	if err != nil {
		return keys{}, err
	}
	m = r.Mapping()
	column := func(name string) string { return t.columns[name].Name }
	return keys{
		aggregate: column(m.AggregateID), sequence: column(m.Sequence), position: column(m.Position),
		shared: m.Positions == eventstore.PositionsOfTransactions, filtered: m.Where != "" || m.Join != "",
	}, nil
}

// generic makes the steps for any table.
func (p *Preparation) generic(ctx context.Context, q pg.Querier, t *table) ([]Step, error) {
	if t.relkind != "r" && t.relkind != "p" {
		return []Step{}, nil
	}
	k, err := keysOf(ctx, q, t, p.mapping)
	if err != nil {
		return nil, err
	}
	var steps []Step
	if t.relkind == "r" { // that of a partitioned table is invalid as long as a partition lacks it
		steps = t.mend(func(index) bool { return false })
	}
	if t.relkind == "r" && k.aggregate != "" && k.sequence != "" && !k.filtered {
		steps = append(steps, p.uniqueStep(t, k))
	}
	if t.relkind == "r" && k.position != "" {
		name, sql := t.object(k.position+"_key"), t.createUnique(t.object(k.position+"_key"), k.position)
		if k.shared {
			name = t.object(k.position + "_idx")
			sql = fmt.Sprintf("create index concurrently %s on %s (%s)", quote(name), t.relation(), quote(k.position))
		}
		steps = append(steps, t.build("index of positions", "build the index of the positions", t.leads(k.position), name, sql))
	}
	return append(steps, t.analyze()), nil
}

func (p *Preparation) uniqueStep(t *table, k keys) Step {
	name := t.object(k.aggregate + "_" + k.sequence + "_key")
	return t.build("index of the key", fmt.Sprintf("build the unique index of %s, %s", k.aggregate, k.sequence), t.unique(k) != nil,
		name, t.createUnique(name, k.aggregate, k.sequence))
}

// unique returns an index that makes the events of an aggregate unique, if need be together with what else is among its keys: the
// store's own rules are left alone.
func (t *table) unique(k keys) *index {
	for i := range t.indexes {
		if x := &t.indexes[i]; x.Unique && x.Valid && x.covers(k.aggregate, k.sequence) {
			return x
		}
	}
	return nil
}

// leads says whether an index begins with the column.
func (t *table) leads(column string) bool {
	return slices.ContainsFunc(t.indexes, func(x index) bool { return x.Valid && !x.Partial && x.Keys[0] == column })
}

// checkGeneric finds what stands in the way of the steps for any table.
func (p *Preparation) checkGeneric(ctx context.Context, q pg.Querier, t *table) error {
	if t.relkind == "p" {
		p.Notes = append(p.Notes, t.relation()+" is partitioned, and PostgreSQL builds no index concurrently on all of it: "+
			"create missing ones on each partition, and then on the table")
		return nil
	}
	k, err := keysOf(ctx, q, t, p.mapping)
	if err != nil || k.aggregate == "" || k.sequence == "" || k.filtered || t.unique(k) != nil {
		return err
	}
	twice, err := t.twice(ctx, q, k)
	if twice != "" {
		p.Refused = append(p.Refused, twice+"; the key cannot be made unique before they are mended")
	}
	return err
}

// twice says which events of an aggregate share a sequence number; it is empty if none do. It reads and sorts the table.
func (t *table) twice(ctx context.Context, q pg.Querier, k keys) (text string, err error) {
	id, seq := quote(k.aggregate), quote(k.sequence)
	var n, number int64
	var example string
	err = q.QueryRow(ctx, fmt.Sprintf(`
		select count(*) over (), id, seq
		from (select %s::text as id, %s::int8 as seq from %s group by %s, %s having count(*) > 1) twice
		order by id, seq
		limit 1`, id, seq, t.relation(), id, seq)).Scan(&n, &example, &number)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for events that share a sequence number: %w", err)
	}
	return fmt.Sprintf("%d sequence numbers occur more than once in their aggregate, such as %d of %s", n, number, example), nil
}

// leftover is the name of an index that REINDEX CONCURRENTLY leaves when it fails, beside the one that it was to replace.
var leftover = regexp.MustCompile(`_cc(new|old)[0-9]*$`)

// mend makes steps for the invalid indexes that failed builds have left: they cost every insert and serve nobody, and a unique
// one may refuse rows. A crash leaves an invalid index, again.
func (t *table) mend(unwanted func(index) bool) (steps []Step) {
	for _, x := range t.indexes {
		name := pg.Table(t.schema, x.Name)
		switch {
		case x.Valid:
		case leftover.MatchString(x.Name), unwanted(x):
			steps = append(steps, t.beside("drop "+x.Name, "drop an index that a failed build has left", false, "drop index concurrently "+name))
		default:
			steps = append(steps, t.beside("rebuild "+x.Name, "rebuild an index that a failed build has left invalid", false,
				"reindex index concurrently "+name))
		}
	}
	return steps
}

// building returns an index that is being built by somebody; nil if there is none.
func (t *table) building() *index {
	for i := range t.indexes {
		if t.indexes[i].Building != 0 {
			return &t.indexes[i]
		}
	}
	return nil
}

// beside is a step that holds nobody off.
func (t *table) beside(name, does string, done bool, sql ...string) Step {
	return Step{
		Name: name, Does: does, SQL: sql, Done: done, Lock: "holds nobody off",
		run: func(ctx context.Context, w *worker) error { return w.exec(ctx, sql...) },
	}
}

// build is a step that builds an index. One that fails for duplicates is dropped at once: an invalid unique index would go on
// refusing rows.
func (t *table) build(name, does string, done bool, index, sql string) Step {
	step := t.beside(name, does, done, sql)
	step.run = func(ctx context.Context, w *worker) error {
		err := w.exec(ctx, sql)
		if _, _, violated := pg.UniqueViolation(err); violated {
			c, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropWait)
			defer cancel()
			if dropErr := w.exec(c, "drop index concurrently if exists "+pg.Table(t.schema, index)); dropErr != nil {
				return errors.Join(err, fmt.Errorf("dropping the index that could not be built: %w", dropErr))
			}
			if e, ok := errors.AsType[*pgconn.PgError](err); ok {
				return fmt.Errorf("%w (%s)", err, strings.TrimSuffix(e.Detail, "."))
			}
		}
		return err
	}
	return step
}

func (t *table) createUnique(name string, columns ...string) string {
	quoted := make([]string, len(columns))
	for i, c := range columns {
		quoted[i] = quote(c)
	}
	return fmt.Sprintf("create unique index concurrently %s on %s (%s)", quote(name), t.relation(), strings.Join(quoted, ", "))
}

func (t *table) analyze() Step {
	return t.beside(stepAnalyze, "collect the statistics by which the planner chooses, and batches are cut", t.stale() == "",
		"analyze "+t.relation())
}

// smallTable is the size in bytes below which plans are good without statistics.
const smallTable = 1 << 20

// stale says why the statistics should be collected; it is empty if they need not. Of partitioned tables the server
// counts no changes.
func (t *table) stale() string {
	switch {
	case t.relkind == "v" || t.bytes < smallTable:
		return ""
	case !t.analyzed:
		return "the table was never analyzed"
	case t.relkind == "r" && t.rows > 0 && float64(t.changed) > t.rows/5:
		return fmt.Sprintf("%d%% of the rows have changed since the table was analyzed", int(100*float64(t.changed)/t.rows))
	}
	return ""
}
