package eventtable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// upgrade is the Axon 2 table at work: its names, and what of it is done.
type upgrade struct {
	*table
	*axon
	options Options

	fillIndex, positionIndex, sequenceName, check string // names that the upgrade gives
	key                                           []string
	numbered                                      bool // every row has a number, and every new one gets one
	time, timeType                                string
}

// The names of steps that the code refers to.
const (
	stepFill    = "fill"
	stepAnalyze = "analyze"
)

func (p *Preparation) upgradeOf(t *table, a *axon) *upgrade {
	u := &upgrade{
		table: t, axon: a, options: p.options,
		fillIndex: t.object(a.position + "_fill"), positionIndex: t.object(a.position + "_key"), sequenceName: t.object(a.position + "_seq"),
		check: t.object(a.position + "_not_null"), key: []string{a.aggregate, a.sequence},
	}
	if p.options.KeepType {
		u.key = append(u.key, a.aggregateType)
	}
	u.numbered = t.columns[a.position].Fallback != ""
	u.time, u.timeType, _ = a.timeOf(t)
	return u
}

// upgrade makes the steps. Those that hold others off do nothing that takes longer with more rows.
func (p *Preparation) upgrade(ctx context.Context, q pg.Querier, t *table, a *axon) ([]Step, error) {
	u := p.upgradeOf(t, a)
	filled, err := u.filled(ctx, q)
	if err != nil {
		return nil, err
	}
	grants, err := u.grants(ctx, q)
	if err != nil {
		return nil, err
	}
	column := t.columns[a.position]
	validated, checked := t.checks[u.check]
	steps := t.mend(func(x index) bool {
		return p.options.KeepType && x.Unique && slices.Equal(x.Keys, u.key[:2])
	})
	steps = append(steps,
		u.alter("column", "add the column of the positions, empty", column.Name != "",
			fmt.Sprintf("alter table %s add column %s bigint", u.relation(), quote(a.position))),
		u.build("index to fill", "build a temporary index that finds the rows without a position, in the order of time",
			u.numbered || u.named(u.fillIndex) != nil, u.fillIndex, u.fillIndexSQL()),
		Step{
			Name: stepFill, Does: "give rows their positions in the order of time, in batches, and leave fewer than a batch",
			SQL: []string{u.fillSQL()}, Done: u.numbered || filled,
			Lock: fmt.Sprintf("holds nobody off: a batch locks the rows that it numbers, at most %s", thousands(p.options.BatchSize)),
			run:  u.fill,
		},
		u.build("index of positions", "build the unique index of the positions", u.uniqueOn(a.position) != nil,
			u.positionIndex, u.createUnique(u.positionIndex, a.position)),
		Step{
			Name: "number the last", Does: "give the last rows their positions, and let a sequence number all that come",
			SQL: append([]string{u.lockSQL(), u.dropSQL(), "-- what fill runs, for all that is left"}, u.numberSQL(grants)...), Done: u.numbered,
			Lock: u.lock(), run: func(ctx context.Context, w *worker) error { return u.numberLast(ctx, w, grants) },
		},
		u.beside("validate", "look whether every row has a position", column.NotNull || checked && validated,
			fmt.Sprintf("alter table %s validate constraint %s", u.relation(), quote(u.check))),
		u.alter("not null", "declare the positions not null, which the constraint has shown", column.NotNull && !checked,
			fmt.Sprintf("alter table %s alter column %s set not null", u.relation(), quote(a.position)),
			fmt.Sprintf("alter table %s drop constraint if exists %s", u.relation(), quote(u.check))),
	)
	return append(append(steps, u.keySteps()...), t.analyze()), nil
}

// keySteps makes the identifier and the sequence number unique, and then the position the primary key.
func (u *upgrade) keySteps() []Step {
	name := u.object(strings.Join(u.key, "_") + "_key")
	unique := u.uniqueOn(u.key...)
	if unique != nil {
		name = unique.Name
	}
	position := u.positionIndex
	if x := u.uniqueOn(u.position); x != nil {
		position = x.Name
	}
	_, primary := u.primaryKey()
	return []Step{
		u.build("index of the key", "build the unique index of "+strings.Join(u.key, ", "), unique != nil,
			name, u.createUnique(name, u.key...)),
		u.alter("unique", "make a constraint of it", unique != nil && unique.Constraint != "",
			fmt.Sprintf("alter table %s add constraint %s unique using index %s", u.relation(), quote(name), quote(name))),
		u.alter("primary key", "make the position the primary key", false,
			fmt.Sprintf("alter table %s drop constraint %s, add constraint %s primary key using index %s",
				u.relation(), quote(primary), quote(primary), quote(position))),
	}
}

// alter is a step that has the table to itself for the statements.
func (u *upgrade) alter(name, does string, done bool, sql ...string) Step {
	return Step{
		Name: name, Does: does, SQL: append([]string{u.lockSQL()}, sql...), Lock: u.lock(), Done: done,
		run: func(ctx context.Context, w *worker) error { return w.alter(ctx, sql...) },
	}
}

func (u *upgrade) lock() string {
	return fmt.Sprintf("holds off readers and writers: at most %s for each try to get the lock, then for statements of at most %s each",
		u.options.LockTimeout, u.options.PauseBudget)
}

func (u *upgrade) fillIndexSQL() string {
	return fmt.Sprintf("create index concurrently %s on %s (\n    (%s), %s, %s, %s\n) where %s is null",
		quote(u.fillIndex), u.relation(), u.time, quote(u.sequence), quote(u.aggregate), quote(u.aggregateType), quote(u.position))
}

func (u *upgrade) dropSQL() string { return "drop index if exists " + pg.Table(u.schema, u.fillIndex) }

// numberSQL makes the sequence and the default. Whoever may insert needs the right to draw numbers: unlike an identity
// column's, the sequence of a default is used with the rights of the inserting role.
func (u *upgrade) numberSQL(grantees []string) []string {
	sequence := pg.Table(u.schema, u.sequenceName)
	literal := pg.Literal(sequence)
	list := []string{fmt.Sprintf("create sequence %s as bigint", sequence)}
	if !u.owned { // a sequence can be owned only by a table of the same role
		list = append(list, fmt.Sprintf("alter sequence %s owner to %s", sequence, quote(u.owner)))
	}
	list = append(list, fmt.Sprintf("alter sequence %s owned by %s.%s", sequence, u.relation(), quote(u.position)))
	if len(grantees) > 0 {
		list = append(list, fmt.Sprintf("grant usage on sequence %s to %s", sequence, strings.Join(grantees, ", ")))
	}
	return append(list,
		fmt.Sprintf("select setval(%s, coalesce(max(%s), 1), max(%s) is not null) from %s", literal, quote(u.position), quote(u.position), u.relation()),
		fmt.Sprintf("alter table %s alter column %s set default nextval(%s)", u.relation(), quote(u.position), literal),
		fmt.Sprintf("alter table %s add constraint %s check (%s is not null) not valid", u.relation(), quote(u.check), quote(u.position)),
	)
}

// grants lists the roles that may insert, quoted, the owner apart.
func (u *upgrade) grants(ctx context.Context, q pg.Querier) ([]string, error) {
	list, err := pg.Collect(ctx, q, pgx.RowTo[string], `
		select distinct case when a.grantee = 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end
		from pg_catalog.pg_class c
		cross join lateral (
			select * from pg_catalog.aclexplode(c.relacl)
			union all
			select x.* from pg_catalog.pg_attribute t cross join lateral pg_catalog.aclexplode(t.attacl) x where t.attrelid = c.oid) a
		where c.oid = $1 and a.privilege_type = 'INSERT' and a.grantee <> c.relowner
		order by 1`, u.oid)
	if err != nil {
		return nil, fmt.Errorf("looking up who may insert into %s: %w", u.relation(), err)
	}
	return list, nil
}

// checkAxon2 finds what stands in the way of the upgrade.
func (p *Preparation) checkAxon2(ctx context.Context, q pg.Querier, t *table, a *axon) error {
	if t.relkind == "p" {
		p.refuse("%s is partitioned, and its key would have to hold the partition key; this upgrade is for plain tables", t.relation())
		return nil
	}
	u := p.upgradeOf(t, a)
	if _, _, whyNot := a.timeOf(t); whyNot != "" {
		p.refuse("%s", whyNot)
		return nil
	}
	if c, ok := t.columns[a.position]; ok && c.Type != "int8" {
		p.refuse("%s.%s exists and is %s; it has to be bigint", t.relation(), a.position, c.Type)
	}
	if !u.numbered {
		if err := u.checkTimes(ctx, q, p); err != nil {
			return err
		}
	}
	if err := u.checkDependents(ctx, q, p); err != nil {
		return err
	}
	if u.uniqueOn(u.key...) != nil {
		return nil
	}
	d, err := duplicates(ctx, q, t, a)
	if err != nil || d == nil {
		return err
	}
	p.Duplicates = d
	if p.options.KeepType {
		p.Notes = append(p.Notes, d.String())
	} else {
		p.refuse("%s; type --keep-type to keep %s in the key, or mend the events", d, a.aggregateType)
	}
	return nil
}

// checkTimes looks at some rows: whether times can be read at all.
func (u *upgrade) checkTimes(ctx context.Context, q pg.Querier, p *Preparation) error {
	var example string
	err := q.QueryRow(ctx, fmt.Sprintf("select min(%s::text) from (select * from %s limit 1000) t where (%s) is null having count(*) > 0",
		quote(u.axon.time), u.relation(), u.time)).Scan(&example)
	switch {
	case err == nil:
		p.refuse("the time %q cannot be read; it has to be like 2014-05-06T10:11:12.123+02:00", example)
	case !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("looking at the times of %s: %w", u.relation(), err)
	}
	return nil
}

// checkDependents finds who would notice: foreign keys to the primary key, triggers and publications.
func (u *upgrade) checkDependents(ctx context.Context, q pg.Querier, p *Preparation) error {
	var foreign, triggers, publications []string
	err := q.QueryRow(ctx, `
		select
			array(select conrelid::regclass || '.' || conname from pg_catalog.pg_constraint where confrelid = $1 and contype = 'f' order by 1),
			array(select tgname::text from pg_catalog.pg_trigger
				where tgrelid = $1 and not tgisinternal and tgenabled <> 'D' and tgtype & 16 <> 0 -- on update
				order by 1),
			array(select pubname::text from pg_catalog.pg_publication_tables where schemaname = $2 and tablename = $3 order by 1)`,
		u.oid, u.schema, u.name).Scan(&foreign, &triggers, &publications)
	if err != nil {
		return fmt.Errorf("looking for what depends on %s: %w", u.relation(), err)
	}
	if len(foreign) > 0 {
		p.refuse("foreign keys lead to the primary key: %s", strings.Join(foreign, ", "))
	}
	if len(triggers) > 0 && !u.numbered {
		p.Notes = append(p.Notes, fmt.Sprintf("the filling updates every row, and so fires %s each time; disable it if it is not meant for this",
			strings.Join(triggers, ", ")))
	}
	if len(publications) > 0 && !u.numbered {
		p.Notes = append(p.Notes, fmt.Sprintf("%s publishes the table: add the column %s at its subscribers first",
			strings.Join(publications, ", "), quote(u.position)))
	}
	return nil
}
