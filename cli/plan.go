package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

type planView struct {
	Type    string `json:"type"`
	Nothing bool   `json:"nothing"`
	viewschema.Plan
	Estimate *viewschema.Estimate `json:"estimate,omitempty"`
}

func newPlanView(p *viewschema.Plan) planView {
	return planView{Type: "plan", Nothing: p.Nothing(), Plan: *p}
}

func (v planView) text(w io.Writer, program string) {
	if v.Nothing {
		fmt.Fprintf(w, "nothing to do: the database is at version %d\n", v.To)
		return
	}
	fmt.Fprintf(w, "version %d → %d\n\n", v.From, v.To)
	t := table(w)
	if len(v.Projectors) > 0 {
		fmt.Fprintf(t, "replay\t%s\n", strings.Join(v.Projectors, ", "))
		if len(v.Lane) > 0 {
			fmt.Fprintf(t, "in order\t%s, by one worker at a time\n", strings.Join(v.Lane, ", "))
		}
		if v.Batches > 0 {
			fmt.Fprintf(t, "events\tabout %s, in %s\n", number(v.Events), count(int64(v.Batches), "batch", "batches"))
		} else {
			fmt.Fprintf(t, "events\tabout %s\n", number(v.Events))
		}
		if v.Reading != nil && v.Reading.Bytes > 0 && v.Reading.Passes > 1 {
			fmt.Fprintf(t, "reading\t%s\n", access(v.Reading))
		}
	} else {
		fmt.Fprintln(t, "replay\tnothing")
	}
	if v.UnderWay != "" {
		fmt.Fprintf(t, "under way\t%s; go on with: %s %s\n", v.UnderWay, program, v.stage())
	}
	t.Flush()
	v.tables(w)
	section(w, "made anew in the cutover, for the new tables", v.Carried)
	section(w, "not needed", v.Omitted)
	v.types(w)
	if v.Estimate != nil {
		estimateView{v.Estimate}.text(w)
	}
	if blocked := v.hazards(w); !blocked[v.stage()] {
		fmt.Fprintln(w)
		next(w, program, string(v.stage()))
	}
}

// access says how the event table is read, and why.
func access(r *viewschema.Reading) string {
	text := fmt.Sprintf("%s over %s of events", count(int64(r.Passes), "pass", "passes"), size(r.Bytes))
	const unordered = "no index has their aggregate ids in the order of bytes"
	if r.Cached() {
		text += fmt.Sprintf(", which fit in effective_cache_size (%s)", size(r.Cache))
		if r.Scanned() {
			text += "; each looks at all of them, since " + unordered
		}
		return text
	}
	text += fmt.Sprintf(", read %.1f times: they exceed effective_cache_size (%s)", r.TimesRead(r.Passes), size(r.Cache))
	switch {
	case r.Scanned():
		return text + ", and " + unordered
	case r.Correlation*r.Correlation > 0.5:
		return text + ", but lie in the order of ids"
	}
	return text + ", and ids are in no order"
}

// stage is what comes next.
func (v planView) stage() viewschema.Stage {
	switch v.UnderWay {
	case replay.Built:
		return viewschema.StageOffline
	case replay.Aborting:
		return "migrate abort"
	}
	return viewschema.StageOnline
}

func (v planView) tables(w io.Writer) {
	fmt.Fprintln(w)
	t := table(w)
	fmt.Fprintln(t, "table\tchange\tbuilt as\tarchived as\tfiles")
	for _, c := range v.Tables {
		change, files := string(c.Kind), c.Files
		if c.Query != "" {
			change, files = change+" in SQL", append(slices.Clone(files), c.Query)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", c.Table, change, cmp.Or(c.Built, "-"), cmp.Or(c.Archived, "-"),
			cmp.Or(strings.Join(files, ", "), "-"))
	}
	t.Flush()
}

// types lists where the event types of the store and those of the definition differ.
func (v planView) types(w io.Writer) {
	about, where := "", "in the store"
	if !v.Exact {
		about, where = "about ", "in a sample of the store"
	}
	if len(v.Unknown) > 0 {
		fmt.Fprintf(w, "\nevent types %s that the definition does not know\n", where)
	}
	t := table(w)
	for _, u := range v.Unknown {
		typeLine(t, u.Type, about+events(u.Events), u.Hint)
	}
	t.Flush()
	if len(v.Absent) > 0 {
		fmt.Fprintf(w, "\nevent types of the definition that do not occur %s\n", where)
	}
	for _, a := range v.Absent {
		typeLine(t, a.Type, a.Hint)
	}
	t.Flush()
}

// typeLine writes a row; cells that are empty and last are left out.
func typeLine(t io.Writer, cells ...string) {
	for len(cells) > 1 && cells[len(cells)-1] == "" {
		cells = cells[:len(cells)-1]
	}
	fmt.Fprintf(t, "  %s\n", strings.Join(cells, "\t"))
}

func (v planView) hazards(w io.Writer) (blocked map[viewschema.Stage]bool) {
	blocked = map[viewschema.Stage]bool{}
	by := map[viewschema.Stage][]string{}
	for _, h := range v.Hazards {
		by[h.Blocks] = append(by[h.Blocks], h.Text)
		blocked[h.Blocks] = true
	}
	for _, stage := range []viewschema.Stage{viewschema.StageOnline, viewschema.StageOffline} {
		section(w, "this blocks "+string(stage), by[stage])
	}
	section(w, "to know before", by[""])
	return blocked
}

// section writes a heading and indented lines, or nothing if there are none.
func section(w io.Writer, heading string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", heading)
	for _, line := range lines {
		fmt.Fprintf(w, "  %s\n", line)
	}
}

type planSQLView struct {
	Type       string                 `json:"type"`
	Statements []viewschema.Statement `json:"statements"`
}

func (v planSQLView) text(w io.Writer, _ string) {
	for i, s := range v.Statements {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "-- %s: %s\n%s\n", s.Stage, s.File, strings.TrimRight(s.SQL, "\n"))
	}
}
