package bank

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Comparison is the outcome of Verify for one view table.
type Comparison struct {
	Table    string
	Rows     int64    // that there should be
	Missing  int64    // rows that are not in the view table
	Surplus  int64    // rows that should not be in it
	Examples []string // a few of both
}

// Beginner is a connection or a pool.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// Verify replays all events one after the other, in the order of the store, with none of Projector's code, and compares
// every row of these view tables with the outcome. Version says which shape accounts has. It reads one snapshot and so sees
// events and tables as of the same instant. No tables are all that the version has.
func Verify(ctx context.Context, db Beginner, version int, tables ...string) ([]Comparison, error) {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // only temporary tables were written
	if err := replay(ctx, tx); err != nil {
		return nil, fmt.Errorf("replaying by hand: %w", err)
	}
	columns := map[string]string{
		"accounts":      "id, owner, iban, currency, branch, balance, version, opened_at",
		"transactions":  "event_id, account_id, seq, kind, amount, balance, description, at",
		"branch_totals": "branch, currency, accounts, balance, turnover",
		"transfers":     "id, from_account, to_iban, to_account, amount, sent_at, received_at",
	}
	if version == 1 {
		columns["accounts"] = "id, owner, balance"
		delete(columns, "branch_totals")
	}
	var exists bool // not before version 2, nor without the order of the store
	if err := tx.QueryRow(ctx, "select to_regclass('view_schema.transfers') is not null").Scan(&exists); err != nil {
		return nil, err
	}
	if !exists || version == 1 {
		delete(columns, "transfers")
	}
	if len(tables) == 0 {
		tables = slices.Sorted(maps.Keys(columns))
	}
	var all []Comparison
	for _, table := range tables {
		c, err := compare(ctx, tx, table, columns[table])
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// replay fills temporary tables with the rows that the view tables should have. Rows of transactions leave as they are
// made, those of transfers when they arrive; open accounts, branches, and transfers on their way stay in memory.
func replay(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		create temporary table expected_accounts (
			id uuid, owner text, iban text, currency text, branch text, balance bigint, version bigint, opened_at timestamptz
		) on commit drop;
		create temporary table expected_transactions (
			event_id bigint, account_id uuid, seq bigint, kind text, amount bigint, balance bigint, description text, at timestamptz
		) on commit drop;
		create temporary table expected_branch_totals (branch text, currency text, accounts bigint, balance bigint, turnover bigint) on commit drop;
		create temporary table expected_transfers (
			id uuid, from_account uuid, to_iban text, to_account uuid, amount bigint, sent_at timestamptz, received_at timestamptz
		) on commit drop`)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "declare history cursor for select position, aggregate_id, sequence_number, event_type, data, created_at from events order by position"); err != nil {
		return err
	}
	h := &history{open: map[uuid.UUID]*Account{}, branches: map[[2]string]*BranchTotal{}, sent: map[uuid.UUID]*Transfer{}}
	for {
		h.movements, h.arrived = nil, nil
		events, err := h.fold(ctx, tx)
		if err != nil {
			return err
		}
		if events == 0 {
			break
		}
		if err := expect(ctx, tx, "transactions", h.movements, "event_id", "account_id", "seq", "kind", "amount", "balance", "description", "at"); err != nil {
			return err
		}
		if err := h.expectTransfers(ctx, tx, h.arrived); err != nil {
			return err
		}
	}
	if err := h.expectTransfers(ctx, tx, slices.Collect(maps.Values(h.sent))); err != nil {
		return err
	}
	var accounts, branches [][]any
	for _, a := range h.open {
		accounts = append(accounts, []any{a.ID, a.Owner, a.IBAN, a.Currency, a.Branch, a.Balance, a.Version, a.OpenedAt})
	}
	for _, b := range h.branches {
		branches = append(branches, []any{b.Branch, b.Currency, b.Accounts, b.Balance, b.Turnover})
	}
	err = expect(ctx, tx, "accounts", accounts, "id", "owner", "iban", "currency", "branch", "balance", "version", "opened_at")
	if err != nil {
		return err
	}
	return expect(ctx, tx, "branch_totals", branches, "branch", "currency", "accounts", "balance", "turnover")
}

// expect stores rows that a view table should have.
func expect(ctx context.Context, tx pgx.Tx, table string, rows [][]any, columns ...string) error {
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"expected_" + table}, columns, pgx.CopyFromRows(rows))
	return err
}

// history is what is known after some of the events.
type history struct {
	open     map[uuid.UUID]*Account
	branches map[[2]string]*BranchTotal
	sent     map[uuid.UUID]*Transfer // and not arrived

	movements [][]any // rows of the last events
	arrived   []*Transfer
}

func (h *history) branch(a *Account) *BranchTotal {
	key := [2]string{a.Branch, a.Currency}
	if h.branches[key] == nil {
		h.branches[key] = &BranchTotal{Branch: a.Branch, Currency: a.Currency}
	}
	return h.branches[key]
}

func (h *history) expectTransfers(ctx context.Context, tx pgx.Tx, transfers []*Transfer) error {
	var rows [][]any
	for _, t := range transfers {
		rows = append(rows, []any{t.ID, t.FromAccount, t.ToIBAN, t.ToAccount, t.Amount, t.SentAt, t.ReceivedAt})
	}
	return expect(ctx, tx, "transfers", rows, "id", "from_account", "to_iban", "to_account", "amount", "sent_at", "received_at")
}

// fold applies the next events of the history.
func (h *history) fold(ctx context.Context, tx pgx.Tx) (events int, err error) {
	rows, err := tx.Query(ctx, "fetch 20000 from history")
	if err != nil {
		return 0, err
	}
	var e struct {
		Transaction
		kind string
		data []byte
	}
	_, err = pgx.ForEachRow(rows, []any{&e.EventID, &e.AccountID, &e.Sequence, &e.kind, &e.data, &e.At}, func() error {
		events++
		var raw map[string]any
		if err := json.Unmarshal(e.data, &raw); err != nil {
			return err
		}
		text := func(key string) string { s, _ := raw[key].(string); return s }
		number, _ := raw["amount"].(float64)
		amount := int64(number)
		a := h.open[e.AccountID]
		transfer, _ := uuid.Parse(text("transfer_id")) // no other event has one
		move := func(kind string, amount int64, description string) {
			a.Balance += amount
			h.branch(a).Balance += amount
			h.branch(a).Turnover += max(amount, -amount)
			h.movements = append(h.movements, []any{e.EventID, e.AccountID, e.Sequence, kind, amount, a.Balance, description, e.At})
		}
		switch e.kind {
		case "AccountOpened":
			a = &Account{ID: e.AccountID, Owner: text("owner_name"), IBAN: text("iban"), Currency: text("currency"), Branch: text("branch"), OpenedAt: e.At}
			h.open[e.AccountID] = a
			h.branch(a).Accounts++
		case "AccountRenamed":
			a.Owner = text("owner_name")
		case "MoneyDeposited":
			move("deposit", amount, text("description"))
		case "MoneyWithdrawn":
			move("withdrawal", -amount, text("description"))
		case "TransferSent":
			move("transfer", -amount, "to "+text("to_iban"))
			h.sent[transfer] = &Transfer{ID: transfer, FromAccount: e.AccountID, ToIBAN: text("to_iban"), Amount: amount, SentAt: e.At}
		case "TransferReceived":
			move("transfer", amount, "from "+text("from_iban"))
			if t := h.sent[transfer]; t != nil { // its sender can be missing where a test leaves accounts out
				to, at := e.AccountID, e.At
				t.ToAccount, t.ReceivedAt = &to, &at
				h.arrived = append(h.arrived, t)
				delete(h.sent, transfer)
			}
		case "AccountClosed":
			h.branch(a).Accounts--
			h.branch(a).Balance -= a.Balance
			delete(h.open, e.AccountID)
		default:
			return fmt.Errorf("event %d has the unknown type %s", e.EventID, e.kind)
		}
		a.Version = e.Sequence
		return nil
	})
	return events, err
}

// compare counts the rows that only one of the two tables has.
func compare(ctx context.Context, tx pgx.Tx, table, columns string) (Comparison, error) {
	c := Comparison{Table: table}
	if err := tx.QueryRow(ctx, "select count(*) from expected_"+table).Scan(&c.Rows); err != nil {
		return c, err
	}
	expected, actual := "select "+columns+" from expected_"+table, "select "+columns+" from view_schema."+table
	sql := `
		with missing as (` + expected + ` except all ` + actual + `),
		     surplus as (` + actual + ` except all ` + expected + `)
		select (select count(*) from missing), (select count(*) from surplus),
			array(select 'missing ' || m::text from missing m limit 3) || array(select 'surplus ' || s::text from surplus s limit 3)`
	if err := tx.QueryRow(ctx, sql).Scan(&c.Missing, &c.Surplus, &c.Examples); err != nil {
		return c, fmt.Errorf("comparing %s: %w", table, err)
	}
	return c, nil
}

// Same says whether the view table has exactly the rows that it should have.
func (c Comparison) Same() bool { return c.Missing == 0 && c.Surplus == 0 }

func (c Comparison) String() string {
	return fmt.Sprintf("%s: of %d rows, %d are missing and %d too many: %q", c.Table, c.Rows, c.Missing, c.Surplus, c.Examples)
}
