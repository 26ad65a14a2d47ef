package eventstore

import (
	"context"
	"fmt"

	"github.com/viewschema/projector/internal/pg"
)

func resolve(_ context.Context, _ pg.Querier, m Mapping) (Mapping, error) {
	return m, fmt.Errorf("%w: there is no preset %q", ErrMapping, m.Preset)
}
