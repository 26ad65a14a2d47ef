package bank

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/viewschema/projector/projections"
)

// Customers open accounts and move money. Only one goroutine at a time may use them.
type Customers struct {
	random   *rand.Rand
	accounts []customer
}

type customer struct {
	id   uuid.UUID
	iban string
	seq  int64
}

// mostAccounts is how many accounts one set of customers has open; when it is reached, opening one closes another.
const mostAccounts = 20_000

// NewCustomers returns customers without an account yet. The same seed makes the same customers.
func NewCustomers(seed uint64) *Customers {
	return &Customers{random: rand.New(rand.NewPCG(seed, 0))}
}

// ShareOut returns n sets of customers, who have the open accounts among them. An account is for one of them to act on, so all
// have theirs before any begins: the accounts that customers open are their own. The seeds count up from seed.
func ShareOut(ctx context.Context, db *pgxpool.Pool, seed uint64, n int) ([]*Customers, error) {
	sets := make([]*Customers, n)
	for i := range sets {
		sets[i] = NewCustomers(seed + uint64(i))
		if err := sets[i].adopt(ctx, db, i, n); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// adopt takes some of the accounts that are open, those whose share of all is part of parts.
func (c *Customers) adopt(ctx context.Context, db *pgxpool.Pool, part, parts int) error {
	rows, err := db.Query(ctx, `
		select e.aggregate_id, e.data ->> 'iban', (select max(m.sequence_number) from events m where m.aggregate_id = e.aggregate_id)
		from view_schema.accounts a
		join events e on e.aggregate_id = a.id and e.sequence_number = 1
		where abs(hashtext(a.id::text) % $2) = $1
		limit 200`, part, parts)
	if err != nil {
		return fmt.Errorf("looking for open accounts: %w", err)
	}
	var a customer
	_, err = pgx.ForEachRow(rows, []any{&a.id, &a.iban, &a.seq}, func() error {
		c.accounts = append(c.accounts, a)
		return nil
	})
	return err
}

// Act returns the events of one customer's next step: one, or two for a transfer.
func (c *Customers) Act() []projections.New {
	n := len(c.accounts)
	switch dice := c.random.IntN(100); {
	case n < 2 || dice < 5 && n < mostAccounts:
		c.accounts = append(c.accounts, c.newCustomer())
		owner := &c.accounts[n]
		return []projections.New{owner.event("AccountOpened", Opened{
			Owner: c.name(), IBAN: owner.iban, Currency: pick(c.random, "EUR", "EUR", "CHF", "SEK"), Branch: pick(c.random, "Utrecht", "Gent", "Köln", "Malmö"),
		})}
	case dice < 8:
		return []projections.New{c.any().event("AccountRenamed", Renamed{Owner: c.name()})}
	case dice < 10:
		i := c.random.IntN(n)
		closed := c.accounts[i]
		c.accounts[i] = c.accounts[n-1]
		c.accounts = c.accounts[:n-1]
		return []projections.New{closed.event("AccountClosed", Closed{})}
	case dice < 50:
		return []projections.New{c.any().event("MoneyDeposited", Deposited{
			Amount: c.amount(), Counterparty: c.name(), Description: pick(c.random, "salary", "rent", "invoice", "refund"),
		})}
	case dice < 85:
		return []projections.New{c.any().event("MoneyWithdrawn", Withdrawn{
			Amount: c.amount(), Counterparty: c.name(), Description: pick(c.random, "groceries", "cash", "train ticket", "books"),
		})}
	}
	i := c.random.IntN(n)
	from, to := &c.accounts[i], &c.accounts[(i+1+c.random.IntN(n-1))%n]
	amount := c.amount()
	id := uuid.NewSHA1(from.id, strconv.AppendInt(nil, from.seq, 10)) // no other event of the account has this number
	return []projections.New{
		from.event("TransferSent", TransferSent{Transfer: id, Amount: amount, To: to.iban}),
		to.event("TransferReceived", TransferReceived{Transfer: id, Amount: amount, From: from.iban}),
	}
}

func (c *Customers) newCustomer() customer {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], c.random.Uint64())
	binary.BigEndian.PutUint64(id[8:], c.random.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a version 4 UUID
	return customer{id: id, iban: fmt.Sprintf("NL00BANK%X", id[:8])}
}

func (c *Customers) any() *customer { return &c.accounts[c.random.IntN(len(c.accounts))] }

func (c *Customers) amount() int64 { return 1 + c.random.Int64N(500_00) }

func (c *Customers) name() string {
	return pick(c.random, "Ada", "Björn", "Chiara", "Dirk", "Élodie", "Femke", "Grażyna") + " " +
		pick(c.random, "de Vries", "Jansen", "Lindqvist", "Müller", "Okafor", "Peeters", "Rossi")
}

func pick(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

func (a *customer) event(typ string, data any) projections.New {
	a.seq++
	return projections.New{Meta: projections.Meta{AggregateID: projections.UUID(a.id), Sequence: a.seq, Type: typ}, Data: data}
}

// Traffic is what customers have done to a store.
type Traffic struct {
	Events     int64
	LongestGap time.Duration // between two commits
}

// Serve lets the customers act on the store until ctx ends or a step fails.
func (c *Customers) Serve(ctx context.Context, store *Store) (t Traffic, err error) {
	for last := time.Now(); ctx.Err() == nil; {
		events := c.Act()
		if err := store.Append(context.WithoutCancel(ctx), events...); err != nil { // a step is short and ends as a whole
			return t, err
		}
		now := time.Now()
		t.Events += int64(len(events))
		t.LongestGap = max(t.LongestGap, now.Sub(last))
		last = now
	}
	return t, nil
}
