package viewschema_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

const openAccount = `
	insert into events (aggregate_id, sequence_number, event_type, data)
	values (gen_random_uuid(), 1, 'AccountOpened', format('{"owner_name": "Late", "iban": "%s", "currency": "EUR", "branch": "Gent"}', gen_random_uuid())::jsonb)`

// lateCommit appends an event in a transaction that stays open, and then commits one with a higher position: a reader that
// remembers the highest position that it has seen loses the first.
func lateCommit(t *testing.T, db *pgxpool.Pool) pgx.Tx {
	t.Helper()
	late, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.Exec(t.Context(), openAccount); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), openAccount); err != nil {
		t.Fatal(err)
	}
	return late
}

func commit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// signal is a log that tells when a message has come.
type signal struct {
	text []byte
	once sync.Once
	seen chan struct{}
}

func (s *signal) Write(line []byte) (int, error) {
	if bytes.Contains(line, s.text) {
		s.once.Do(func() { close(s.seen) })
	}
	return len(line), nil
}

func openWithSignal(t *testing.T, db *pgxpool.Pool, d viewschema.Definition, text string) (*viewschema.Schema, <-chan struct{}) {
	t.Helper()
	s := &signal{text: []byte(text), seen: make(chan struct{})}
	schema, err := viewschema.Open(db, d, viewschema.Options{Log: zerolog.New(s)})
	if err != nil {
		t.Fatal(err)
	}
	return schema, s.seen
}

// The first cut waits for a transaction that has a lower position and has not committed. Seen to lose its event with the
// wait taken out of Settle.
func TestLateCommitAcrossTheStart(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	late := lateCommit(t, db)
	s, waiting := openWithSignal(t, db, version2(), "may still bring events")
	done := make(chan error, 1)
	go func() {
		_, err := s.MigrateOnline(t.Context())
		done <- err
	}()
	select {
	case <-waiting:
		commit(t, late)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	case err := <-done:
		t.Errorf("did not wait for the open writer: %v", err)
		commit(t, late)
	}
	offline(t, s)
	verify(t, db, 2)
}

// A catch-up does not wait for ever: it applies what it sees, leaves the old cut, and finds the late event next time. Seen
// to lose its event with the cut moved all the same.
func TestLateCommitAcrossACatchUp(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	built := online(t, s)
	late := lateCommit(t, db)
	r, err := s.CatchUp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Events != 1 || r.Waiting == "" || r.Cut != built.Cut {
		t.Errorf("one event and the old cut %d were expected: %+v", built.Cut, r)
	}
	commit(t, late)
	if r, err = s.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Events != 1 || r.Cut != built.Cut+2 {
		t.Errorf("the late event and the new cut %d were expected: %+v", built.Cut+2, r)
	}
	offline(t, s)
	verify(t, db, 2)
}

// The cutover does not begin while a writer is open: it gives its locks back and tries again. Seen to lose the event with
// the writers' lock taken out.
func TestLateCommitAcrossTheCutover(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s, gaveWay := openWithSignal(t, db, version2(), "gave the locks back")
	online(t, s)
	late := lateCommit(t, db)
	done := make(chan error, 1)
	go func() {
		_, err := s.MigrateOffline(t.Context())
		done <- err
	}()
	select {
	case <-gaveWay:
		commit(t, late)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	case err := <-done:
		t.Errorf("did not give way to the open writer: %v", err)
		commit(t, late)
	}
	verify(t, db, 2)
}

// Positions that start again below the cut would be taken for what was replayed. Seen to keep rows of events that are gone,
// and to leave new ones out, without the look at the sequence.
func TestPositionsGoBack(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, atVersion1)
	s := open(t, db, version2())
	online(t, s)
	if _, err := db.Exec(t.Context(), "truncate events restart identity"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), openAccount); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"catchup", "offline"} {
		if err := steps(s)[name](t.Context()); err == nil || !strings.Contains(err.Error(), "went back") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
