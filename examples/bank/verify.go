package bank

import (
	"context"
	"encoding/json"
	"fmt"

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

// Verify replays all events one after the other, in the order of the store, with none of Projector's code, and compares
// every row of the view tables with the outcome. Version says which shape accounts has. It reads one snapshot and so sees
// events and tables as of the same instant.
func Verify(ctx context.Context, conn *pgx.Conn, version int) ([]Comparison, error) {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // only temporary tables were written
	if err := replay(ctx, tx); err != nil {
		return nil, fmt.Errorf("replaying by hand: %w", err)
	}
	columns := "id, owner, iban, currency, branch, balance, version, opened_at"
	if version == 1 {
		columns = "id, owner, balance"
	}
	accounts, err := compare(ctx, tx, "accounts", columns)
	if err != nil {
		return nil, err
	}
	movements, err := compare(ctx, tx, "transactions", "event_id, account_id, seq, kind, amount, balance, description, at")
	if err != nil {
		return nil, err
	}
	comparisons := []Comparison{accounts, movements}
	var exists bool // not before version 2, nor without the order of the store
	if err := tx.QueryRow(ctx, "select to_regclass('view_schema.transfers') is not null").Scan(&exists); err != nil || !exists {
		return comparisons, err
	}
	transfers, err := compare(ctx, tx, "transfers", "id, from_account, to_iban, to_account, amount, sent_at, received_at")
	return append(comparisons, transfers), err
}

// replay fills temporary tables with the rows that the view tables should have. Rows of transactions and transfers leave as they
// are made; open accounts, and transfers that have not arrived, stay in memory.
func replay(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		create temporary table expected_accounts (
			id uuid, owner text, iban text, currency text, branch text, balance bigint, version bigint, opened_at timestamptz
		) on commit drop;
		create temporary table expected_transactions (
			event_id bigint, account_id uuid, seq bigint, kind text, amount bigint, balance bigint, description text, at timestamptz
		) on commit drop;
		create temporary table expected_transfers (
			id uuid, from_account uuid, to_iban text, to_account uuid, amount bigint, sent_at timestamptz, received_at timestamptz
		) on commit drop`)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "declare history cursor for select position, aggregate_id, sequence_number, event_type, data, created_at from events order by position"); err != nil {
		return err
	}
	h := &history{open: map[uuid.UUID]*Account{}, sent: map[uuid.UUID]*Transfer{}}
	for {
		h.movements, h.transfers = nil, nil
		events, err := h.fold(ctx, tx)
		if err != nil {
			return err
		}
		if events == 0 {
			break
		}
		_, err = tx.CopyFrom(ctx, pgx.Identifier{"expected_transactions"},
			[]string{"event_id", "account_id", "seq", "kind", "amount", "balance", "description", "at"}, pgx.CopyFromRows(h.movements))
		if err == nil {
			err = h.copyTransfers(ctx, tx)
		}
		if err != nil {
			return err
		}
	}
	h.transfers = nil
	for _, t := range h.sent {
		h.arrive(t)
	}
	if err := h.copyTransfers(ctx, tx); err != nil {
		return err
	}
	var rows [][]any
	for _, a := range h.open {
		rows = append(rows, []any{a.ID, a.Owner, a.IBAN, a.Currency, a.Branch, a.Balance, a.Version, a.OpenedAt})
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"expected_accounts"},
		[]string{"id", "owner", "iban", "currency", "branch", "balance", "version", "opened_at"}, pgx.CopyFromRows(rows))
	return err
}

// history is what a replay by hand has in memory.
type history struct {
	open                 map[uuid.UUID]*Account
	sent                 map[uuid.UUID]*Transfer // and not arrived
	movements, transfers [][]any                 // rows to store
}

func (h *history) arrive(t *Transfer) {
	h.transfers = append(h.transfers, []any{t.ID, t.FromAccount, t.ToIBAN, t.ToAccount, t.Amount, t.SentAt, t.ReceivedAt})
}

func (h *history) copyTransfers(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"expected_transfers"},
		[]string{"id", "from_account", "to_iban", "to_account", "amount", "sent_at", "received_at"}, pgx.CopyFromRows(h.transfers))
	return err
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
			h.movements = append(h.movements, []any{e.EventID, e.AccountID, e.Sequence, kind, amount, a.Balance, description, e.At})
		}
		switch e.kind {
		case "AccountOpened":
			a = &Account{ID: e.AccountID, Owner: text("owner_name"), IBAN: text("iban"), Currency: text("currency"), Branch: text("branch"), OpenedAt: e.At}
			h.open[e.AccountID] = a
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
			t := h.sent[transfer]
			delete(h.sent, transfer)
			to, at := e.AccountID, e.At
			t.ToAccount, t.ReceivedAt = &to, &at
			h.arrive(t)
		case "AccountClosed":
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
