package cli

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/viewschema/projector/viewschema"
)

// verificationView is a viewschema.Verification for programs.
type verificationView struct {
	Type    string  `json:"type"`
	Same    bool    `json:"same"`
	Elapsed float64 `json:"elapsed_seconds"`
	viewschema.Verification

	gate bool // a cutover comes next, if nothing differs
}

func (v verificationView) text(w io.Writer, program string) {
	allNew := !slices.ContainsFunc(v.Tables, func(t viewschema.TableComparison) bool { return !t.New })
	switch {
	case len(v.Tables) == 0:
		fmt.Fprintf(w, "nothing to compare: version %d rebuilds no table\n", v.To)
	case allNew:
		fmt.Fprintf(w, "nothing to compare: all tables of version %d are new\n", v.To)
	default:
		fmt.Fprintf(w, "compared the tables that were built for version %d with the live ones, in %s\n\n", v.To, duration(v.Verification.Elapsed))
		v.summary(w)
		for _, t := range v.Tables {
			v.table(w, t)
		}
	}
	v.hints(w)
	command := "migrate offline"
	if v.Rollback {
		command = "rollback"
	}
	fmt.Fprintln(w)
	switch {
	case v.Same && slices.ContainsFunc(v.Tables, func(t viewschema.TableComparison) bool { return t.Expected || len(t.ExpectedColumns) > 0 }):
		fmt.Fprintln(w, "nothing differs but what was expected to")
	case v.Same && !allNew:
		fmt.Fprintln(w, "nothing differs")
	case !v.Same && v.gate:
		fmt.Fprintln(w, "not cut over: there are differences; declare those that are meant with --expect")
	case !v.Same:
		fmt.Fprintln(w, "there are differences; declare those that are meant with --expect")
	}
	if v.Same && !v.gate {
		next(w, program, command)
	}
}

func (v verificationView) summary(w io.Writer) {
	t := table(w)
	fmt.Fprintln(t, "table\tbuilt\tlive\tonly built\tonly live\tdiffer")
	for _, c := range v.Tables {
		switch {
		case c.New:
			fmt.Fprintf(t, "%s\t\t\t\t\tnew\n", c.Table)
		case c.Expected:
			fmt.Fprintf(t, "%s\t\t\t\t\texpected to\n", c.Table)
		default:
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Table, number(c.BuiltRows), number(c.LiveRows), number(c.OnlyBuilt), number(c.OnlyLive), number(c.Differ))
		}
	}
	t.Flush()
}

// table says what there is to say about one table besides the numbers of its rows.
func (verificationView) table(w io.Writer, c viewschema.TableComparison) {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if len(c.ExpectedColumns) > 0 {
		add("expected to differ, and not compared: %s", strings.Join(c.ExpectedColumns, ", "))
	}
	if len(c.Unseen) > 0 {
		add("numbered by the database, and not compared: %s", strings.Join(c.Unseen, ", "))
	}
	if c.Unexplained {
		add("the tables differ, but not in a row that was found; do others inherit from one of them?")
	}
	if len(c.OnlyBuiltColumns) > 0 {
		add("only the built table has %s; if that is meant: %s", strings.Join(c.OnlyBuiltColumns, ", "), expect(c.Table, c.OnlyBuiltColumns))
	}
	if len(c.OnlyLiveColumns) > 0 {
		add("only the live table has %s; if that is meant: %s", strings.Join(c.OnlyLiveColumns, ", "), expect(c.Table, c.OnlyLiveColumns))
	}
	var columns []string
	for _, d := range c.Columns {
		columns = append(columns, d.Column)
		add("%s differs in %s", d.Column, rows(d.Rows))
	}
	if len(columns) > 0 {
		add("if that is meant: %s", expect(c.Table, columns))
	}
	for _, e := range c.Examples {
		key := ""
		if len(e.Key) > 0 {
			key = " " + row(e.Key)
		}
		switch {
		case e.Live == nil:
			add("only built, for example%s\n    %s", key, row(e.Built))
		case e.Built == nil:
			add("only live, for example%s\n    %s", key, row(e.Live))
		default:
			add("for example%s\n    built %s\n    live  %s", key, row(e.Built), row(e.Live))
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(w, "\n%s\n  %s\n", c.Table, strings.Join(lines, "\n  "))
	}
}

// hints say why tables may differ although nothing is wrong.
func (v verificationView) hints(w io.Writer) {
	var list []string
	if v.Parked > 0 {
		list = append(list, fmt.Sprintf("the built tables leave out %s, whose rows are only in the live ones; see: events parked",
			count(int64(v.Parked), "parked aggregate", "parked aggregates")))
	}
	if v.LiveParked > 0 {
		list = append(list, fmt.Sprintf("the live tables leave out %s; see: events parked", count(int64(v.LiveParked), "parked aggregate", "parked aggregates")))
	}
	if v.Apart != "" {
		list = append(list, v.Apart)
	}
	section(w, "keep in mind", list)
}

// expect is what to type for differences that are meant.
func expect(table string, columns []string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = fmt.Sprintf("--expect %s.%s", table, c)
	}
	return strings.Join(list, " ")
}

var plain = regexp.MustCompile(`^[\w.:+-]+$`)

// row is a row's values, by column.
func row(values map[string]*string) string {
	const most = 100
	var list []string
	for _, column := range slices.Sorted(maps.Keys(values)) {
		text := "null"
		if v := values[column]; v != nil {
			text = *v
			if runes := []rune(text); len(runes) > most {
				text = string(runes[:most]) + "…"
			}
			if !plain.MatchString(text) || text == "null" {
				text = strconv.Quote(text)
			}
		}
		list = append(list, column+" "+text)
	}
	return strings.Join(list, ", ")
}
