package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/viewschema/projector/replay"
	"github.com/viewschema/projector/viewschema"
)

// parked are the commands on aggregates that are left out of the new tables.
func (p *program) parked() []*urfave.Command {
	return []*urfave.Command{
		{
			Name:   "parked",
			Usage:  "list the aggregates that the new tables leave out, each with the event that cannot be projected",
			Action: p.action(listParked),
		},
		{
			Name:      "retry",
			Usage:     "replay parked aggregates anew, those named or all, after their events were mended; other code needs migrate abort and migrate online",
			ArgsUsage: "[aggregate-id …]",
			Action:    p.action(retryParked),
		},
	}
}

// parkingFlags say what becomes of events that cannot be projected.
func parkingFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.StringFlag{
			Name: "on-error", Value: string(replay.Stop),
			Usage: "stop, or park: leave the aggregate of an event that cannot be projected out of the new tables, and go on; see events parked",
		},
		&urfave.IntFlag{Name: "max-parked", Value: 100, Usage: "with --on-error=park: how many aggregates, before it is an error all the same"},
	}
}

// checkParking refuses what parkingFlags do not allow.
func checkParking(c *urfave.Context) error {
	if v := c.String("on-error"); c.IsSet("on-error") && !slices.Contains([]string{string(replay.Stop), string(replay.Park)}, v) {
		return usagef("--on-error %s: use %s or %s", v, replay.Stop, replay.Park)
	}
	if n := c.Int("max-parked"); c.IsSet("max-parked") && n < 1 {
		return usagef("--max-parked %d: at least 1", n)
	}
	return nil
}

func listParked(ctx context.Context, s *session) error {
	list, err := s.schema.Parked(ctx)
	if err != nil {
		return err
	}
	return s.answer(parkedView{Type: "parked", Aggregates: list})
}

func retryParked(ctx context.Context, s *session) error {
	ids := s.flags.Args().Slice()
	if at := slices.IndexFunc(ids, func(id string) bool { return strings.HasPrefix(id, "-") }); at >= 0 {
		return usagef("%s goes before the aggregate ids", ids[at])
	}
	list, err := s.schema.RetryParked(ctx, ids...)
	if len(list) > 0 || err == nil {
		if err := s.answer(retriedView{Type: "retried", Nothing: len(list) == 0, Aggregates: list}); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	var left []string
	for _, r := range list {
		if r.Error != "" {
			left = append(left, r.Aggregate)
		}
	}
	if left != nil {
		return fmt.Errorf("%s parked: %s", count(int64(len(left)), "aggregate stays", "aggregates stay"), strings.Join(left, ", "))
	}
	return nil
}

type parkedView struct {
	Type       string              `json:"type"`
	Aggregates []viewschema.Parked `json:"aggregates"`
}

func (v parkedView) text(w io.Writer, program string) {
	if len(v.Aggregates) == 0 {
		fmt.Fprintln(w, "nothing is parked")
		return
	}
	version, command := 0, ""
	for _, p := range v.Aggregates {
		if p.Version != version {
			if version != 0 {
				fmt.Fprintln(w)
			}
			version = p.Version
			fmt.Fprintf(w, "version %d (%s) leaves out\n", p.Version, p.State)
		}
		fmt.Fprintf(w, "  aggregate %s, since %s\n    %s\n", p.Aggregate, p.At.Format(time.DateTime), failure(p))
		switch p.State {
		case replay.Building:
			command = "migrate online"
		case replay.Built:
			command = "events retry"
		}
	}
	if command != "" {
		fmt.Fprintln(w)
		next(w, program, command)
	}
}

// failure says in one line how a parked aggregate fails.
func failure(p viewschema.Parked) string {
	by := ""
	if p.Projector != "" {
		by = "projector " + p.Projector + ": "
	}
	return oneLine(fmt.Sprintf("%sevent %d (%s, sequence %d): %s", by, p.Position, p.Type, p.Sequence, p.Error))
}

// fewParked is how many aggregates of a version the status names.
const fewParked = 3

// parkedRows are the status's.
func parkedRows(t io.Writer, list []viewschema.Parked) {
	for len(list) > 0 {
		version := list[0].Version
		n := len(list)
		if i := slices.IndexFunc(list, func(p viewschema.Parked) bool { return p.Version != version }); i >= 0 {
			n = i
		}
		fmt.Fprintf(t, "parked\t%s left out of version %d; see: events parked\n", aggregates(n), version)
		for _, p := range list[:min(n, fewParked)] {
			fmt.Fprintf(t, "\t%s: %s\n", p.Aggregate, failure(p))
		}
		list = list[n:]
	}
}

type retriedView struct {
	Type       string               `json:"type"`
	Nothing    bool                 `json:"nothing"`
	Aggregates []viewschema.Retried `json:"aggregates"`
}

func (v retriedView) text(w io.Writer, _ string) {
	if v.Nothing {
		fmt.Fprintln(w, "nothing to do: nothing is parked")
	}
	for _, r := range v.Aggregates {
		if r.Error == "" {
			fmt.Fprintf(w, "replayed aggregate %s\n", r.Aggregate)
		} else {
			fmt.Fprintf(w, "aggregate %s stays parked: %s\n", r.Aggregate, oneLine(r.Error))
		}
	}
}
