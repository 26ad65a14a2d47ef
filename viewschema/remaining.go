package viewschema

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/viewschema/projector/internal/pg"
)

// Remaining is a statement that was to complete a cutover after its commit, and failed. The new version is live all the same.
type Remaining struct {
	What      string `json:"what"`      // that is not complete: a foreign key that is not valid, statistics without data
	Statement string `json:"statement"` // for the operator to type, once the error is understood
	Error     string `json:"error"`
}

// completeTries is how often a statement is tried for which a lock cannot be had: DDL or a vacuum of its table keeps it out.
const completeTries = 3

// complete runs, after the cutover's commit, what completes the things that it made anew. These statements take a SHARE UPDATE EXCLUSIVE
// lock, which holds off neither readers nor writers, however long they take. A crash leaves a foreign key that is not valid: it
// holds for rows that are written, and Doctor finds it.
func (s *Schema) complete(ctx context.Context, all []belonging) (left []Remaining) {
	var done []string
	for _, b := range all {
		if b.After == "" || slices.Contains(done, b.After) {
			continue
		}
		done = append(done, b.After)
		began := time.Now()
		if err := s.completeOne(ctx, b.After); err != nil {
			left = append(left, Remaining{What: b.What, Statement: b.After, Error: err.Error()})
			s.opts.Log.Error().Err(err).Str("what", b.What).Str("type", b.After).Msg("the cutover has succeeded, and this is left to do")
			continue
		}
		s.opts.Log.Info().Str("what", b.What).Str("statement", b.After).Dur("elapsed", time.Since(began)).Msg("completed")
	}
	return left
}

func (s *Schema) completeOne(ctx context.Context, sql string) (err error) {
	for range completeTries {
		err = s.inTx(ctx, pg.PointComplete, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "select "+pg.Unbounded); err != nil { // it reads a whole table
				return err
			}
			_, err := tx.Exec(ctx, sql)
			return err
		})
		if !pg.IsLockTimeout(err) && !pg.IsRetryable(err) && !pg.IsConnectionLost(err) {
			return err
		}
	}
	return err
}
