package viewschema_test

import (
	"errors"
	"testing"
	"time"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// Following goes on until the cutover, and then ends well.
func TestFollowUntilTheCutover(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	passes, followed := make(chan viewschema.Result), make(chan error, 1)
	go func() {
		followed <- s.Follow(t.Context(), time.Millisecond, func(r viewschema.Result) {
			select {
			case passes <- r:
			case <-t.Context().Done():
			}
		})
	}()
	<-passes
	if _, err := db.Exec(t.Context(), openAccount); err != nil {
		t.Fatal(err)
	}
	for r := range passes {
		if r.Events == 1 {
			break
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.MigrateOffline(t.Context())
		done <- err
	}()
	for ended := false; !ended; {
		select {
		case <-passes:
		case err := <-followed:
			if ended = true; err != nil {
				t.Error(err)
			}
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	verify(t, db, 2)
}

// Following ends with an error if the migration is aborted.
func TestFollowEndsWithAnAbort(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	first, followed := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		followed <- s.Follow(t.Context(), time.Millisecond, func(viewschema.Result) {
			select {
			case first <- struct{}{}:
			default:
			}
		})
	}()
	<-first
	if _, err := s.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-followed; !errors.Is(err, viewschema.ErrState) {
		t.Errorf("got %v", err)
	}
}
