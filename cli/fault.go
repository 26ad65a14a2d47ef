package cli

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/viewschema/projector/internal/pg"
)

// faultVariable makes the process kill itself at a commit, for tests of crashes: moment:point, or moment:point:nth.
const faultVariable = "PROJECTOR_FAULT"

// withFault returns a context that ends the process at the commit that the environment names, if it names one.
func (p *program) withFault(ctx context.Context) (context.Context, error) {
	text := p.getenv(faultVariable)
	if text == "" {
		return ctx, nil
	}
	parts := strings.Split(text, ":")
	nth := int64(1)
	var err error
	if len(parts) == 3 {
		nth, err = strconv.ParseInt(parts[2], 10, 64)
		parts = parts[:2]
	}
	if err != nil || nth < 1 || len(parts) != 2 || !slices.Contains([]pg.Moment{pg.Before, pg.After}, pg.Moment(parts[0])) ||
		!slices.Contains(pg.Points, pg.Point(parts[1])) {
		points := make([]string, len(pg.Points))
		for i, point := range pg.Points {
			points[i] = string(point)
		}
		return ctx, usagef("%s=%s: write %s or %s, a point, and which of several if not the first, as in before:batch:2; the points are: %s",
			faultVariable, text, pg.Before, pg.After, strings.Join(points, ", "))
	}
	var seen atomic.Int64 // transactions run side by side
	return pg.WithFault(ctx, func(moment pg.Moment, point pg.Point) {
		if moment == pg.Moment(parts[0]) && point == pg.Point(parts[1]) && seen.Add(1) == nth {
			killSelf()
		}
	}), nil
}

// killSelf ends the process as kill -9 does: nothing is rolled back, closed or said.
func killSelf() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err) // a crash, too, though not the one that was asked for
	}
	select {} // until the signal arrives
}
