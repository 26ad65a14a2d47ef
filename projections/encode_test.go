package projections_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/uptrace/bun"
	"pgregory.net/rapid"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/projections"
)

type (
	shade string
	level int16
	point struct {
		X int    `json:"x"`
		Y string `json:"y"`
	}
	// values has what a column may be stored in and loaded from.
	values struct {
		bun.BaseModel `bun:"table:vals"`
		ID            uuid.UUID       `bun:"id,pk"`
		Text          string          `bun:"a_text"`
		Varchar       shade           `bun:"a_varchar"`
		Null          *string         `bun:"a_null"`
		Zero          int64           `bun:"a_zero,nullzero"`
		UUID          *[16]byte       `bun:"a_uuid"`
		I2            level           `bun:"an_int2"`
		I4            int             `bun:"an_int4"`
		I8            uint64          `bun:"an_int8"`
		U             *uint8          `bun:"a_byte"`
		Bool          bool            `bun:"a_bool"`
		F4            float32         `bun:"a_float4"`
		F8            *float64        `bun:"a_float8"`
		Num           string          `bun:"a_numeric"`
		Num8          int64           `bun:"a_numeric8"`
		PgNum         pgtype.Numeric  `bun:"a_pgnumeric"`
		TZ            time.Time       `bun:"a_timestamptz"`
		TS            *time.Time      `bun:"a_timestamp"`
		Date          time.Time       `bun:"a_date"`
		Span          time.Duration   `bun:"an_interval"`
		Bytes         []byte          `bun:"a_bytea"`
		Raw           json.RawMessage `bun:"a_json"`
		Doc           any             `bun:"a_jsonb"`
		Struct        *point          `bun:"a_struct"`
		Points        []point         `bun:"points,type:jsonb"`
		JSONText      string          `bun:"json_text"`
		Texts         []string        `bun:"texts"`
		Ints          []int64         `bun:"ints"`
		UUIDs         []uuid.UUID     `bun:"uuids"`
		Times         []time.Time     `bun:"times"`
		Inet          netip.Prefix    `bun:"an_inet"`
		InetText      string          `bun:"an_inet_text"`
		ArrayText     string          `bun:"array_text"`
		Money         pgtype.Text     `bun:"a_pgtext"`
	}
)

const valuesSQL = `
create table vals (
  id uuid primary key, a_text text, a_varchar varchar(100), a_null text, a_zero bigint, a_uuid uuid, an_int2 int2, an_int4 int4,
  an_int8 int8, a_byte int2, a_bool bool, a_float4 float4, a_float8 float8, a_numeric numeric, a_numeric8 numeric,
  a_pgnumeric numeric, a_timestamptz timestamptz, a_timestamp timestamp, a_date date, an_interval interval, a_bytea bytea,
  a_json json, a_jsonb jsonb, a_struct jsonb, points jsonb, json_text jsonb, texts text[], ints int4[], uuids uuid[],
  times timestamptz[], an_inet inet, an_inet_text inet, array_text text[], a_pgtext text
);
create table by_pgx (like vals);
`

var vals = projections.NewRows(func(v *values) uuid.UUID { return v.ID })

// COPY with our encoders stores what pgx's parameters store, and a row that was loaded is the row that was stored.
func TestEncoders(t *testing.T) {
	t.Parallel()
	pool := pgtest.Database(t, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, valuesSQL)
		return err
	})
	var in, loaded values
	set, err := projections.NewSet(bankEvents, &projections.Projector{Name: "values", Tables: []projections.Table{vals}, Handlers: []projections.Handler{
		projections.On(func(s *projections.Store, _ projections.Event[opened]) error { return vals.Create(s, in) }),
		projections.On(func(s *projections.Store, e projections.Event[closed]) (err error) {
			loaded, err = vals.Get(s, e.AggregateID.UUID())
			return err
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	rebuild, catchUp := set.Rebuild(), set.CatchUp()
	rapid.Check(t, func(t *rapid.T) {
		in = drawValues(t)
		if _, err := apply(t.Context(), pool, rebuild, ev(1, in.ID, 1, "AccountOpened", "{}")); err != nil {
			t.Fatal(err)
		}
		insertByPgx(t, pool, in)
		var ours, theirs string
		if err := pool.QueryRow(t.Context(), `
			select (select to_jsonb(v) from vals v where id = $1)::text, (select to_jsonb(v) from by_pgx v where id = $1)::text`,
			in.ID).Scan(&ours, &theirs); err != nil {
			t.Fatal(err)
		}
		if ours != theirs {
			t.Fatalf("ours   %s\ntheirs %s", ours, theirs)
		}
		if rows, err := apply(t.Context(), pool, catchUp, ev(1, in.ID, 2, "AccountClosed", "{}")); err != nil || rows != 0 {
			t.Fatal(rows, err)
		}
		want := in // as a stored row is: in UTC and without what PostgreSQL does not keep
		want.TZ = want.TZ.Truncate(time.Microsecond).UTC()
		want.Date = time.Date(want.Date.Year(), want.Date.Month(), want.Date.Day(), 0, 0, 0, 0, time.UTC)
		if want.TS != nil {
			wall := time.Date(want.TS.Year(), want.TS.Month(), want.TS.Day(), want.TS.Hour(), want.TS.Minute(), want.TS.Second(), want.TS.Nanosecond()/1000*1000, time.UTC)
			want.TS = &wall
		}
		for i := range loaded.Times {
			if !loaded.Times[i].Equal(want.Times[i]) {
				t.Fatalf("time %v, stored %v", loaded.Times[i], want.Times[i])
			}
			want.Times[i] = loaded.Times[i]
		}
		if got, want := fmt.Sprintf("%#v", show(loaded)), fmt.Sprintf("%#v", show(want)); got != want {
			t.Fatalf("loaded %s\nstored %s", got, want)
		}
	})
}

// show is the row with its pointers followed.
func show(v values) (fields []string) {
	r := reflect.ValueOf(v)
	for i := 1; i < r.NumField(); i++ {
		f := r.Field(i)
		if f.Kind() == reflect.Pointer && !f.IsNil() {
			f = f.Elem()
		}
		fields = append(fields, fmt.Sprintf("%s: %#v", r.Type().Field(i).Name, f.Interface()))
	}
	return fields
}

func insertByPgx(t *rapid.T, pool beginner, v values) {
	var columns, places []string
	var args []any
	r := reflect.ValueOf(v)
	for i := 1; i < r.NumField(); i++ {
		name, options, _ := strings.Cut(r.Type().Field(i).Tag.Get("bun"), ",")
		arg := r.Field(i).Interface()
		if options == "nullzero" && r.Field(i).IsZero() {
			arg = nil
		}
		columns, args = append(columns, name), append(args, arg)
		places = append(places, fmt.Sprintf("$%d", i))
	}
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), fmt.Sprintf("insert into by_pgx (%s) values (%s)", strings.Join(columns, ", "), strings.Join(places, ", ")), args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func drawValues(t *rapid.T) values {
	clean := rapid.StringMatching(`[a-zA-Z0-9 "'\\{},é€]{0,12}`)
	id := rapid.Custom(func(t *rapid.T) uuid.UUID {
		return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
	})
	at := rapid.Custom(func(t *rapid.T) time.Time {
		zone := time.FixedZone("", rapid.IntRange(-12, 12).Draw(t, "zone")*3600)
		return time.Unix(rapid.Int64Range(-62e9, 250e9).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).In(zone)
	})
	digits := fmt.Sprintf("%d.%03d", rapid.Int64().Draw(t, "whole"), rapid.IntRange(0, 999).Draw(t, "thousandths"))
	v := values{
		ID: uuid.New(), Text: clean.Draw(t, "text"), Varchar: shade(clean.Draw(t, "varchar")), Null: rapid.Ptr(clean, true).Draw(t, "null"),
		Zero: rapid.Int64Range(0, 1).Draw(t, "zero"),
		I2:   level(rapid.Int16().Draw(t, "int2")), I4: int(rapid.Int32().Draw(t, "int4")), I8: uint64(rapid.Int64Min(0).Draw(t, "int8")),
		U: rapid.Ptr(rapid.Uint8(), true).Draw(t, "byte"), Bool: rapid.Bool().Draw(t, "bool"),
		F4: rapid.Float32().Draw(t, "float4"), F8: rapid.Ptr(rapid.Float64(), true).Draw(t, "float8"),
		Num: digits, Num8: rapid.Int64().Draw(t, "numeric"), TZ: at.Draw(t, "timestamptz"), TS: rapid.Ptr(at, true).Draw(t, "timestamp"),
		Date: at.Draw(t, "date"), Span: time.Duration(rapid.Int64Range(-1e12, 1e12).Draw(t, "interval")) * time.Microsecond,
		Raw: json.RawMessage(`{"b": 1, "a":[]}`), JSONText: `{"a": 1}`,
		Inet: netip.MustParsePrefix("10.1.2.0/24"), InetText: "10.1.2.0/24", ArrayText: `{a,"b c",NULL}`,
		Money: pgtype.Text{String: clean.Draw(t, "pgtext"), Valid: true},
	}
	if err := v.PgNum.Scan("-12.50"); err != nil {
		t.Fatal(err)
	}
	if rapid.Bool().Draw(t, "filled") {
		u := [16]byte(id.Draw(t, "uuid"))
		v.UUID = &u
		v.Bytes = rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		v.Doc = map[string]any{clean.Draw(t, "key"): []any{true, nil, clean.Draw(t, "value"), 1.5}}
		v.Struct = &point{rapid.Int().Draw(t, "x"), clean.Draw(t, "y")}
		v.Points = []point{*v.Struct, {}}
		v.Texts = rapid.SliceOf(clean).Draw(t, "texts")
		v.Ints = rapid.SliceOf(rapid.Int64Range(-1<<31, 1<<31-1)).Draw(t, "ints")
		v.UUIDs = rapid.SliceOf(id).Draw(t, "uuids")
		for _, at := range rapid.SliceOf(at).Draw(t, "times") {
			v.Times = append(v.Times, at.Truncate(time.Microsecond))
		}
	}
	return v
}
