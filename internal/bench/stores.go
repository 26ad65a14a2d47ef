package main

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/examples/bank"
)

// How a data set is made of another one, whose event table is then former.events.
var (
	//go:embed sql/uuidv7.sql
	toUUIDv7 string
	//go:embed sql/text.sql
	toText string
	//go:embed sql/hot.sql
	toHot string
	//go:embed sql/tenfold.sql
	toTenfold string
)

// To fill a table without indexes and to make them afterwards is faster, and leaves them in their best shape.
const (
	dropIndexes = "alter table events drop constraint events_pkey, drop constraint events_aggregate_id_sequence_number_key"
	makeIndexes = "alter table events add primary key (position), add unique (aggregate_id, sequence_number)"
)

const seed = 1

// sequel is what the customers of a store with so many events do next.
func sequel(events int) *bank.History {
	h := bank.NewHistory(seed)
	h.Skip(events)
	return h
}

// store makes a database with the bank's events, once for each number of them, and returns its name.
func (b *bench) store(ctx context.Context, events int) (database string, err error) {
	database = fmt.Sprintf("events_%d", events)
	if b.made[database] {
		return database, nil
	}
	b.say("making %s events", number(events))
	if err := b.exec(ctx, "", "create database "+database); err != nil {
		return "", err
	}
	err = b.with(ctx, database, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, bank.EventTable+dropIndexes); err != nil {
			return err
		}
		return bank.Fill(ctx, conn, events, seed)
	})
	if err != nil {
		return "", err
	}
	b.made[database] = true
	return database, b.exec(ctx, database, makeIndexes, "vacuum (analyze) events")
}

// derive makes a database out of another one. The script moves the events; without one it is a copy.
func (b *bench) derive(ctx context.Context, database, from, script string) error {
	b.say("making %s of %s", database, from)
	if err := b.reset(ctx, from); err != nil {
		return err
	}
	if err := b.exec(ctx, "", "create database "+database+" template "+from); err != nil || script == "" {
		return err
	}
	return b.exec(ctx, database,
		"create schema former; alter table events set schema former",
		bank.EventTable+dropIndexes,
		script,
		"drop schema former cascade",
		makeIndexes,
		"vacuum (analyze) events")
}

func (b *bench) drop(ctx context.Context, database string) error {
	return b.exec(ctx, "", "drop database if exists "+database+" with (force)")
}
